"""The registry: which flows there are, in which versions, and where they are kept.

Readers never lock; writers replace one immutable snapshot. Stores keep definitions, they decide nothing.
"""

from chainweaver.registry.directory import FailedFile, ReloadReport
from chainweaver.registry.flows import FlowRegistry
from chainweaver.registry.plugins import discover_flows
from chainweaver.registry.snapshot import RegistrySnapshot
from chainweaver.registry.stores import FileStore, InMemoryStore, RegistryStore
from chainweaver.registry.watch import WatchHandle

__all__ = [
    "FailedFile",
    "FileStore",
    "FlowRegistry",
    "InMemoryStore",
    "RegistrySnapshot",
    "RegistryStore",
    "ReloadReport",
    "WatchHandle",
    "discover_flows",
]
