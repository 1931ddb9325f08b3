"""chainweaver: run flows of typed tools inside a Python program, deterministically.

This file holds the public names and nothing else. Each name is loaded from its room when somebody first asks for it,
so that `import chainweaver` costs next to nothing. Applications import from here; the rooms import from each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chainweaver._lazy import lazy_names

if TYPE_CHECKING:
    from chainweaver.cache import (
        FileStepCache as FileStepCache,
        InMemoryStepCache as InMemoryStepCache,
        StepCache as StepCache,
        StepCacheKey as StepCacheKey,
    )
    from chainweaver.checkpoint import (
        Checkpointer as Checkpointer,
        ExecutionSnapshot as ExecutionSnapshot,
        FileCheckpointer as FileCheckpointer,
        InMemoryCheckpointer as InMemoryCheckpointer,
        StepDelta as StepDelta,
    )
    from chainweaver.compiler import (
        CompilationError as CompilationError,
        CompilationResult as CompilationResult,
        CompilationWarning as CompilationWarning,
        compile_flow as compile_flow,
    )
    from chainweaver.exceptions import (
        ApprovalDeniedError as ApprovalDeniedError,
        ArtifactCorruptError as ArtifactCorruptError,
        AsyncLaneUnsupportedError as AsyncLaneUnsupportedError,
        ChainWeaverError as ChainWeaverError,
        CheckpointDriftError as CheckpointDriftError,
        CheckpointEncodeError as CheckpointEncodeError,
        CheckpointerNotConfiguredError as CheckpointerNotConfiguredError,
        CheckpointNotFoundError as CheckpointNotFoundError,
        CheckpointVersionError as CheckpointVersionError,
        CommandLineError as CommandLineError,
        ContextKeyCollisionError as ContextKeyCollisionError,
        DAGDefinitionError as DAGDefinitionError,
        DecisionCallbackError as DecisionCallbackError,
        DefinitionError as DefinitionError,
        DynamicParameterError as DynamicParameterError,
        ExportError as ExportError,
        FlowAlreadyExistsError as FlowAlreadyExistsError,
        FlowBuilderError as FlowBuilderError,
        FlowCancelledError as FlowCancelledError,
        FlowCompileError as FlowCompileError,
        FlowCompositionError as FlowCompositionError,
        FlowExecutionError as FlowExecutionError,
        FlowNotFoundError as FlowNotFoundError,
        FlowSerializationError as FlowSerializationError,
        FlowStatusError as FlowStatusError,
        GuardrailViolationError as GuardrailViolationError,
        InputError as InputError,
        InputMappingError as InputMappingError,
        InternalError as InternalError,
        InvalidFlowVersionError as InvalidFlowVersionError,
        LaneUnsupportedError as LaneUnsupportedError,
        MissingExtraError as MissingExtraError,
        OutputMappingError as OutputMappingError,
        PluginDiscoveryError as PluginDiscoveryError,
        PredicateSyntaxError as PredicateSyntaxError,
        RunProtocolError as RunProtocolError,
        SafetyCeilingError as SafetyCeilingError,
        SchemaRefPolicyError as SchemaRefPolicyError,
        SchemaValidationError as SchemaValidationError,
        StoppedError as StoppedError,
        ToolDefinitionError as ToolDefinitionError,
        ToolError as ToolError,
        ToolNotFoundError as ToolNotFoundError,
        ToolOutputSizeError as ToolOutputSizeError,
        ToolTimeoutError as ToolTimeoutError,
        error_code_registry as error_code_registry,
    )
    from chainweaver.executor import (
        CancellationToken as CancellationToken,
        FlowExecutor as FlowExecutor,
    )
    from chainweaver.flow import (
        ConditionalEdge as ConditionalEdge,
        DAGFlow as DAGFlow,
        DAGFlowStep as DAGFlowStep,
        DriftInfo as DriftInfo,
        Flow as Flow,
        FlowBuilder as FlowBuilder,
        FlowGovernance as FlowGovernance,
        FlowLifecycle as FlowLifecycle,
        FlowStatus as FlowStatus,
        FlowStep as FlowStep,
        RetryPolicy as RetryPolicy,
        SchemaRefAllowlist as SchemaRefAllowlist,
        SchemaRefPolicy as SchemaRefPolicy,
        SideEffectLevel as SideEffectLevel,
        ToolSafetyContract as ToolSafetyContract,
        literal as literal,
        merge_safety as merge_safety,
        ref as ref,
        template as template,
        validate_dag_topology as validate_dag_topology,
    )
    from chainweaver.formats import (
        FlowParseLimits as FlowParseLimits,
        flow_from_dict as flow_from_dict,
        flow_from_json as flow_from_json,
        flow_from_yaml as flow_from_yaml,
        flow_schema_json as flow_schema_json,
        flow_to_dict as flow_to_dict,
        flow_to_json as flow_to_json,
        flow_to_yaml as flow_to_yaml,
        load_flow_file as load_flow_file,
    )
    from chainweaver.observe import (
        BaseMiddleware as BaseMiddleware,
        FlowEndContext as FlowEndContext,
        FlowEvent as FlowEvent,
        FlowExecutorMiddleware as FlowExecutorMiddleware,
        FlowStartContext as FlowStartContext,
        StepChunkContext as StepChunkContext,
        StepEndContext as StepEndContext,
        StepStartContext as StepStartContext,
    )
    from chainweaver.registry import (
        FileStore as FileStore,
        FlowRegistry as FlowRegistry,
        InMemoryStore as InMemoryStore,
        RegistryStore as RegistryStore,
        ReloadReport as ReloadReport,
    )
    from chainweaver.results import (
        ExecutionPlan as ExecutionPlan,
        ExecutionResult as ExecutionResult,
        StepPlan as StepPlan,
        StepRecord as StepRecord,
    )
    from chainweaver.runtime import (
        Runtime as Runtime,
    )
    from chainweaver.tools import (
        Native as Native,
        StreamingTool as StreamingTool,
        Tool as Tool,
        ToolChunk as ToolChunk,
        ToolContext as ToolContext,
        check_flow_compatibility as check_flow_compatibility,
        schema_fingerprint as schema_fingerprint,
        tool as tool,
    )
    from chainweaver.viz import (
        flow_to_ascii as flow_to_ascii,
        flow_to_dot as flow_to_dot,
        flow_to_mermaid as flow_to_mermaid,
        result_to_mermaid as result_to_mermaid,
    )

__version__ = "0.1.0"

_ROOMS: dict[str, tuple[str, ...]] = {
    "chainweaver.exceptions": (
        "ApprovalDeniedError",
        "ArtifactCorruptError",
        "AsyncLaneUnsupportedError",
        "ChainWeaverError",
        "CheckpointDriftError",
        "CheckpointEncodeError",
        "CheckpointNotFoundError",
        "CheckpointVersionError",
        "CheckpointerNotConfiguredError",
        "CommandLineError",
        "ContextKeyCollisionError",
        "DAGDefinitionError",
        "DecisionCallbackError",
        "DefinitionError",
        "DynamicParameterError",
        "ExportError",
        "FlowAlreadyExistsError",
        "FlowBuilderError",
        "FlowCancelledError",
        "FlowCompileError",
        "FlowCompositionError",
        "FlowExecutionError",
        "FlowNotFoundError",
        "FlowSerializationError",
        "FlowStatusError",
        "GuardrailViolationError",
        "InputError",
        "InputMappingError",
        "InternalError",
        "InvalidFlowVersionError",
        "LaneUnsupportedError",
        "MissingExtraError",
        "OutputMappingError",
        "PluginDiscoveryError",
        "PredicateSyntaxError",
        "RunProtocolError",
        "SafetyCeilingError",
        "SchemaRefPolicyError",
        "SchemaValidationError",
        "StoppedError",
        "ToolDefinitionError",
        "ToolError",
        "ToolNotFoundError",
        "ToolOutputSizeError",
        "ToolTimeoutError",
        "error_code_registry",
    ),
    "chainweaver.flow": (
        "ConditionalEdge",
        "DAGFlow",
        "DAGFlowStep",
        "DriftInfo",
        "Flow",
        "FlowBuilder",
        "FlowGovernance",
        "FlowLifecycle",
        "FlowStatus",
        "FlowStep",
        "RetryPolicy",
        "SchemaRefAllowlist",
        "SchemaRefPolicy",
        "SideEffectLevel",
        "ToolSafetyContract",
        "literal",
        "merge_safety",
        "ref",
        "template",
        "validate_dag_topology",
    ),
    "chainweaver.tools": (
        "Native",
        "StreamingTool",
        "Tool",
        "ToolChunk",
        "ToolContext",
        "check_flow_compatibility",
        "schema_fingerprint",
        "tool",
    ),
    "chainweaver.registry": (
        "FileStore",
        "FlowRegistry",
        "InMemoryStore",
        "RegistryStore",
        "ReloadReport",
    ),
    "chainweaver.compiler": (
        "CompilationError",
        "CompilationResult",
        "CompilationWarning",
        "compile_flow",
    ),
    "chainweaver.executor": (
        "CancellationToken",
        "FlowExecutor",
    ),
    "chainweaver.results": (
        "ExecutionPlan",
        "ExecutionResult",
        "StepPlan",
        "StepRecord",
    ),
    "chainweaver.cache": (
        "FileStepCache",
        "InMemoryStepCache",
        "StepCache",
        "StepCacheKey",
    ),
    "chainweaver.checkpoint": (
        "Checkpointer",
        "ExecutionSnapshot",
        "FileCheckpointer",
        "InMemoryCheckpointer",
        "StepDelta",
    ),
    "chainweaver.observe": (
        "BaseMiddleware",
        "FlowEndContext",
        "FlowEvent",
        "FlowExecutorMiddleware",
        "FlowStartContext",
        "StepChunkContext",
        "StepEndContext",
        "StepStartContext",
    ),
    "chainweaver.formats": (
        "FlowParseLimits",
        "flow_from_dict",
        "flow_from_json",
        "flow_from_yaml",
        "flow_schema_json",
        "flow_to_dict",
        "flow_to_json",
        "flow_to_yaml",
        "load_flow_file",
    ),
    "chainweaver.viz": (
        "flow_to_ascii",
        "flow_to_dot",
        "flow_to_mermaid",
        "result_to_mermaid",
    ),
    "chainweaver.runtime": ("Runtime",),
}
"""Every public name, under the module that holds it."""

__all__ = ["__version__", *sorted(name for names in _ROOMS.values() for name in names)]  # noqa: PLE0604  # computed once from the table above


__getattr__ = lazy_names(globals(), _ROOMS)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
