"""Definitions: flows, steps and their policies as plain validated data.

Nothing here runs, schedules or stores anything. Everything a user builds a flow from is importable from this package.
"""

from chainweaver.flow.builder import FlowBuilder
from chainweaver.flow.copies import copy_flow
from chainweaver.flow.definition import AnyFlow, DAGFlow, Flow
from chainweaver.flow.governance import DriftInfo, FlowGovernance, FlowLifecycle, FlowStatus
from chainweaver.flow.mapping import (
    DefaultSource,
    KeySource,
    LiteralSource,
    MappingSyntaxError,
    PointerSource,
    Source,
    TemplateRef,
    TemplateSource,
    literal,
    parse_source,
    ref,
    template,
)
from chainweaver.flow.refs import (
    DEFAULT_REF_POLICY,
    SchemaRefAllowlist,
    SchemaRefPolicy,
    class_ref,
    resolve_class,
    resolve_model,
)
from chainweaver.flow.retry import RetryPolicy
from chainweaver.flow.safety import DeterminismLevel, SideEffectLevel, StabilityLevel, ToolSafetyContract, merge_safety
from chainweaver.flow.steps import ConditionalEdge, DAGFlowStep, FlowStep
from chainweaver.flow.topology import validate_dag_topology
from chainweaver.flow.versions import is_version, sorted_versions
from chainweaver.flow.wiring import ToolShape

__all__ = [
    "FlowBuilder",
    "copy_flow",
    "DefaultSource",
    "KeySource",
    "LiteralSource",
    "MappingSyntaxError",
    "PointerSource",
    "Source",
    "TemplateRef",
    "TemplateSource",
    "literal",
    "parse_source",
    "ref",
    "template",
    "validate_dag_topology",
    "is_version",
    "sorted_versions",
    "ToolShape",
    "DEFAULT_REF_POLICY",
    "AnyFlow",
    "ConditionalEdge",
    "DAGFlow",
    "DAGFlowStep",
    "DeterminismLevel",
    "DriftInfo",
    "Flow",
    "FlowGovernance",
    "FlowLifecycle",
    "FlowStatus",
    "FlowStep",
    "RetryPolicy",
    "SchemaRefAllowlist",
    "SchemaRefPolicy",
    "SideEffectLevel",
    "StabilityLevel",
    "ToolSafetyContract",
    "class_ref",
    "merge_safety",
    "resolve_class",
    "resolve_model",
]
