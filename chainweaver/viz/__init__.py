"""Drawings of flows and results as text: Mermaid, Graphviz, plain.

Everything public is importable from this package. Drawing needs no tool and no registry, runs nothing, and gives the
same text for the same flow on every machine.
"""

from chainweaver.viz.ascii import flow_to_ascii
from chainweaver.viz.dot import flow_to_dot
from chainweaver.viz.mermaid import flow_to_mermaid, result_to_mermaid

__all__ = ["flow_to_ascii", "flow_to_dot", "flow_to_mermaid", "result_to_mermaid"]
