"""Steps that take an input in chunks: what they give, what is wrong with them, and how they are planned.

To the rest of this room such a step has tools like any other; only their outputs are those of all chunks together.
Called by `lower` and `build`.
"""

from __future__ import annotations

from dataclasses import replace
from types import NoneType
from typing import TYPE_CHECKING, Any, get_origin

from pydantic import ConfigDict, create_model

from chainweaver.compiler.core_schemas import gives_stream
from chainweaver.compiler.findings import describe_all
from chainweaver.compiler.model_traits import annotation_of
from chainweaver.compiler.models import KnownTool, ModelFacts
from chainweaver.compiler.types import Constant, compatible, describe
from chainweaver.exceptions import SchemaValidationError
from chainweaver.plan import ASIDE, PlannedChunks, PlannedTool

if TYPE_CHECKING:
    from chainweaver.compiler.findings import Findings
    from chainweaver.compiler.inputs import BoundInputs
    from chainweaver.compiler.lower import Lowered
    from chainweaver.flow import Chunk

_WITHOUT_ROWS: frozenset[type] = frozenset({int, float, bool, complex, NoneType, dict, set, frozenset})
_NOT_ADDED: frozenset[type] = frozenset({NoneType, dict, set, frozenset})
_NOT_JOINED = _WITHOUT_ROWS


# ---- what a step gives


def in_chunks(known: KnownTool, chunk: Chunk, combiner: KnownTool | None) -> KnownTool:
    """A tool as a step has it that calls it once per chunk: with the outputs of the step."""
    if combiner is not None:
        gives = combiner.gives
    elif chunk.combine == "list" and isinstance(known.gives, ModelFacts):
        gives = ModelFacts(_lists_of(known.gives))
    else:
        gives = known.gives
    return KnownTool(known.tool, known.takes, gives, known)


def _lists_of(gives: ModelFacts) -> Any:
    """The model of outputs that are kept in lists."""
    fields: Any = {name: (_list_of(kind), ...) for name, kind in gives.outputs.items()}
    config = ConfigDict(arbitrary_types_allowed=True, extra="allow" if gives.open else "ignore")
    return create_model(f"{gives.name}Lists", __config__=config, **fields)


def _list_of(kind: Any) -> Any:
    return list[annotation_of(kind)]  # type: ignore[misc]  # made while a flow is compiled


# ---- what may be wrong


def check_chunks(step: Lowered, chunk: Chunk, bound: BoundInputs, findings: Findings) -> BoundInputs:
    """Note everything that is wrong with a chunked step.

    Returns:
        What it reads; the type of the input that is cut is nothing that its tool has to take.
    """
    _check_outputs(step, chunk, findings)
    if step.combiner is not None:
        _check_combiner(step, step.combiner, findings)
    takes = step.takes
    if takes is None:
        return bound
    field = takes.accepted.get(chunk.input)
    if field is None:
        if not takes.tolerant:
            hint = findings.hint(chunk.input, takes.field_names(), "its fields are")
            _error(step, "unknown_chunk_input", f"tool '{step.tool_name}' has no input '{chunk.input}' to cut; {hint}",
                   "input", findings)  # fmt: skip
        return bound
    if bound.given is None:
        return bound
    kinds = bound.given.get(field.name, [Any])
    if all(_is_one_of(kind, _WITHOUT_ROWS) for kind in kinds):
        detail = (
            f"input '{field.name}' gets {describe_all(kinds)}, which cannot be cut into chunks; map an array, a table, "
            "a list or the path of a parquet file, or remove chunk"
        )
        _error(step, "type_mismatch", detail, "input", findings)
    return replace(bound, given={**bound.given, field.name: [Any]} if field.name in bound.given else bound.given)


def _check_outputs(step: Lowered, chunk: Chunk, findings: Findings) -> None:
    """Note outputs that cannot be combined in the way that is asked for."""
    if step.primary is None:
        return
    for name, kind in (step.primary.call or step.primary).gives.outputs.items():
        if gives_stream(kind):
            detail = (
                f"output '{name}' of tool '{step.tool_name}' is a stream, and one for each chunk cannot be combined; "
                "return a list of the items"
            )
            _error(step, "uncombinable_output", detail, "output", findings)
    if chunk.combine not in ("sum", "concat"):
        return
    refused, doing = (_NOT_ADDED, "added") if chunk.combine == "sum" else (_NOT_JOINED, "put one after the other")
    for name, kind in step.primary.gives.outputs.items():
        if _is_one_of(kind, refused):
            detail = (
                f"output '{name}' of tool '{step.tool_name}' is {describe(kind)}, and values of that type cannot be "
                f"{doing}; combine them with 'list', or name a tool"
            )
            _error(step, "uncombinable_output", detail, "output", findings)


def _check_combiner(step: Lowered, combiner: KnownTool, findings: Findings) -> None:
    """Note what the tool that combines cannot take: it gets a list for each output."""
    if step.primary is None:
        return
    gives, takes, name = (step.primary.call or step.primary).gives, combiner.takes, combiner.tool.name
    # By the keys that validation reads: a mapping may use others, and there is none here.
    fed = {field.name for output in gives.outputs if (field := takes.accepted.get(output)) and field.key == output}
    for field in takes.fields:
        if field.required and field.name not in fed and not gives.open:
            detail = (
                f"combine tool '{name}' needs '{field.key}', which tool '{step.tool_name}' does not return; it gets a "
                "list for each output, under the name of the output"
            )
            _error(step, "combine_missing_required_input", detail, "input", findings)
    for output, kind in gives.outputs.items():
        accepted = takes.accepted.get(output)
        if accepted is None:
            if takes.closed:
                hint = findings.hint(output, takes.field_names(), "its fields are")
                _error(step, "combine_unknown_target_key", f"combine tool '{name}' refuses '{output}'; {hint}",
                       "input", findings)  # fmt: skip
        elif not compatible(_list_of(kind), accepted.kind):
            detail = (
                f"combine tool '{name}' takes {describe(accepted.kind)} as '{output}', and gets "
                f"{describe(_list_of(kind))}; it is called once, with a list for each output"
            )
            _error(step, "combine_type_mismatch", detail, "input", findings)


def _is_one_of(kind: Any, kinds: frozenset[type]) -> bool:
    annotation = type(kind.value) if isinstance(kind, Constant) else annotation_of(kind)
    return (get_origin(annotation) or annotation) in kinds


def _error(step: Lowered, issue_type: str, detail: str, side: str, findings: Findings) -> None:
    findings.error(
        step,
        issue_type,
        detail,
        lambda: SchemaValidationError(step.tool_name, step.index, detail, context=side, step_name=step.label),
        "chunk",
    )


# ---- the plan


def plan_in_chunks(planned: PlannedTool, known: KnownTool, combiner: KnownTool | None) -> PlannedTool:
    """A tool that is called once per chunk: what records and stores have to know is what the step gives."""
    secrets = [] if combiner is None else [name for name in combiner.gives.outputs if name in planned.secret_outputs]
    return replace(
        planned, scalar_inputs=False, scalar_outputs=False, number_inputs=False, number_outputs=False,
        output_model=known.gives.model if isinstance(known.gives, ModelFacts) else planned.output_model,
        secret_outputs=planned.secret_outputs if combiner is None else tuple(secrets),
        dry=None if planned.dry is None else plan_in_chunks(planned.dry, known, combiner),
    )  # fmt: skip


def plan_chunks(step: Lowered, chunk: Chunk, tool: PlannedTool, merge: PlannedTool | None) -> PlannedChunks:
    """How a step takes its input in chunks."""
    # Only chunked steps need it, and it loads the codecs.
    from chainweaver.objects.chunks import END, Pieces

    def pieces(value: Any) -> Pieces:
        return Pieces(value, chunk.bytes, chunk.rows, "list" if chunk.tool_name else chunk.combine)

    field = None if step.takes is None else step.takes.accepted.get(chunk.input)
    return PlannedChunks(
        key=chunk.input if field is None else field.key,
        pieces=pieces,
        end=END,
        perform=_performer(tool),
        merge=merge,
    )


def _performer(tool: PlannedTool) -> PlannedTool:
    """What stands for a tool and calls what it is given, beside the tools: no worker has what is read here."""
    return replace(
        tool, fn=_performed, is_async=False, inline=False, lane=ASIDE, wants_context=False, timeout_s=None,
        cacheable=False, safety=None, dry=None, stream=None,
    )  # fmt: skip


def _performed(work: Any) -> Any:
    return work()


__all__ = ["check_chunks", "in_chunks", "plan_chunks", "plan_in_chunks"]
