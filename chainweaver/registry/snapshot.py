"""One state of a registry: immutable, and complete in itself.

A reader takes the snapshot once and sees the same flows from then on, whatever is registered meanwhile. Whether two
states are the same one is a question of identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NoReturn, final

from chainweaver.exceptions import FlowNotFoundError
from chainweaver.flow import AnyFlow, sorted_versions

__all__ = ["EMPTY_SNAPSHOT", "FlowKey", "RegistrySnapshot"]

FlowKey = tuple[str, str]
"""Name and version of a flow."""


@final
class RegistrySnapshot(Mapping[FlowKey, AnyFlow]):
    """The flows of a registry at one moment: (name, version) -> definition, ordered by name, then by version.

    The definitions are the registry's own: read them, never change them.

    Attributes:
        flows: (name, version) -> definition.
        highest: Name -> definition of the highest version.

    >>> len(EMPTY_SNAPSHOT)
    0
    """

    __slots__ = ("_versions", "flows", "highest")

    def __init__(
        self,
        flows: dict[FlowKey, AnyFlow] | None = None,
        versions: dict[str, list[str]] | None = None,
        highest: dict[str, AnyFlow] | None = None,
    ) -> None:
        self.flows = flows or {}
        self._versions = versions or {}
        self.highest = highest or {}

    def changed(self, flows: Iterable[AnyFlow] = (), *, without: Iterable[FlowKey] = ()) -> RegistrySnapshot:
        """Another snapshot with these flows put in and those keys taken out; this one stays as it is."""
        own, versions, highest = dict(self.flows), dict(self._versions), dict(self.highest)
        touched: dict[str, set[str]] = {}
        for name, version in without:
            del own[name, version]
            touched.setdefault(name, set(self.versions(name))).discard(version)
        for flow in flows:
            own[flow.name, flow.version] = flow
            touched.setdefault(flow.name, set(self.versions(flow.name))).add(flow.version)
        for name, known in touched.items():
            if known:
                versions[name] = sorted_versions(known)
                highest[name] = own[name, versions[name][-1]]
            else:
                del versions[name], highest[name]
        return RegistrySnapshot(own, versions, highest)

    def resolve(self, name: str, version: str | None = None) -> AnyFlow:
        """The registry's own definition, not a copy.

        Args:
            name: Name of the flow.
            version: Its version; None: the highest one, pre-releases counting below their finals.

        Raises:
            FlowNotFoundError: There is no such flow.
        """
        try:
            return self.highest[name] if version is None else self.flows[name, version]
        except KeyError:
            self._refuse(name, version)

    def versions(self, name: str) -> list[str]:
        """The versions of a flow in ascending order; empty when there is none."""
        return list(self._versions.get(name, ()))

    def names(self) -> list[str]:
        """The names of all flows in alphabetical order."""
        return sorted(self._versions)

    def __getitem__(self, key: FlowKey) -> AnyFlow:
        return self.flows[key]

    def __iter__(self) -> Iterator[FlowKey]:
        return ((name, version) for name in self.names() for version in self._versions[name])

    def __len__(self) -> int:
        return len(self.flows)

    def _refuse(self, name: str, version: str | None) -> NoReturn:
        if name not in self.highest:
            raise FlowNotFoundError(name, version, known=self.names()) from None
        fix = "register this version, or ask for one of the known ones"
        raise FlowNotFoundError(name, version, known=self.versions(name), fix=fix) from None


EMPTY_SNAPSHOT = RegistrySnapshot()
