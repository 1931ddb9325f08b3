"""Definitions: flows, steps and their policies as plain validated data.

Nothing here runs, schedules or stores anything. Everything a user builds a flow from is importable from this package.
"""

from typing import TYPE_CHECKING

from chainweaver._lazy import lazy_names

if TYPE_CHECKING:
    from chainweaver.flow.builder import (
        FlowBuilder as FlowBuilder,
    )
    from chainweaver.flow.callbacks import (
        ApprovalCallback as ApprovalCallback,
        ApprovalContext as ApprovalContext,
        ApprovalDecision as ApprovalDecision,
        CapabilityContext as CapabilityContext,
        CapabilityHook as CapabilityHook,
        DecisionCallback as DecisionCallback,
        DecisionContext as DecisionContext,
        DecisionPolicy as DecisionPolicy,
        GuardrailCallback as GuardrailCallback,
        GuardrailContext as GuardrailContext,
    )
    from chainweaver.flow.chunk import (
        Chunk as Chunk,
    )
    from chainweaver.flow.copies import (
        copy_flow as copy_flow,
    )
    from chainweaver.flow.definition import (
        AnyFlow as AnyFlow,
        DAGFlow as DAGFlow,
        Flow as Flow,
    )
    from chainweaver.flow.governance import (
        DriftInfo as DriftInfo,
        FlowGovernance as FlowGovernance,
        FlowLifecycle as FlowLifecycle,
        FlowStatus as FlowStatus,
    )
    from chainweaver.flow.mapping import (
        DefaultSource as DefaultSource,
        KeySource as KeySource,
        LiteralSource as LiteralSource,
        MappingSyntaxError as MappingSyntaxError,
        PointerSource as PointerSource,
        Source as Source,
        TemplateRef as TemplateRef,
        TemplateSource as TemplateSource,
        literal as literal,
        parse_source as parse_source,
        ref as ref,
        template as template,
    )
    from chainweaver.flow.refs import (
        DEFAULT_REF_POLICY as DEFAULT_REF_POLICY,
        SchemaRefAllowlist as SchemaRefAllowlist,
        SchemaRefPolicy as SchemaRefPolicy,
        class_ref as class_ref,
        resolve_class as resolve_class,
        resolve_model as resolve_model,
    )
    from chainweaver.flow.retry import (
        RetryPolicy as RetryPolicy,
    )
    from chainweaver.flow.safety import (
        DeterminismLevel as DeterminismLevel,
        SideEffectLevel as SideEffectLevel,
        StabilityLevel as StabilityLevel,
        ToolSafetyContract as ToolSafetyContract,
        merge_safety as merge_safety,
    )
    from chainweaver.flow.steps import (
        ConditionalEdge as ConditionalEdge,
        DAGFlowStep as DAGFlowStep,
        FlowStep as FlowStep,
    )
    from chainweaver.flow.topology import (
        validate_dag_topology as validate_dag_topology,
    )
    from chainweaver.flow.versions import (
        is_version as is_version,
        sorted_versions as sorted_versions,
    )
    from chainweaver.flow.wiring import (
        ToolShape as ToolShape,
    )

_HOMES = {
    "chainweaver.flow.builder": ("FlowBuilder",),
    "chainweaver.flow.callbacks": (
        "ApprovalCallback",
        "ApprovalContext",
        "ApprovalDecision",
        "CapabilityContext",
        "CapabilityHook",
        "DecisionCallback",
        "DecisionContext",
        "DecisionPolicy",
        "GuardrailCallback",
        "GuardrailContext",
    ),
    "chainweaver.flow.chunk": ("Chunk",),
    "chainweaver.flow.copies": ("copy_flow",),
    "chainweaver.flow.definition": (
        "AnyFlow",
        "DAGFlow",
        "Flow",
    ),
    "chainweaver.flow.governance": (
        "DriftInfo",
        "FlowGovernance",
        "FlowLifecycle",
        "FlowStatus",
    ),
    "chainweaver.flow.mapping": (
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
    ),
    "chainweaver.flow.refs": (
        "DEFAULT_REF_POLICY",
        "SchemaRefAllowlist",
        "SchemaRefPolicy",
        "class_ref",
        "resolve_class",
        "resolve_model",
    ),
    "chainweaver.flow.retry": ("RetryPolicy",),
    "chainweaver.flow.safety": (
        "DeterminismLevel",
        "SideEffectLevel",
        "StabilityLevel",
        "ToolSafetyContract",
        "merge_safety",
    ),
    "chainweaver.flow.steps": (
        "ConditionalEdge",
        "DAGFlowStep",
        "FlowStep",
    ),
    "chainweaver.flow.topology": ("validate_dag_topology",),
    "chainweaver.flow.versions": (
        "is_version",
        "sorted_versions",
    ),
    "chainweaver.flow.wiring": ("ToolShape",),
}
"""Every public name, under the module that holds it."""

__getattr__ = lazy_names(globals(), _HOMES)
__all__ = sorted(name for names in _HOMES.values() for name in names)  # noqa: PLE0605  # computed from the table above
