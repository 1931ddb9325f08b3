"""What is wrong with the inputs of a step, in words, and how the step fails for it when a run reaches it.

Called by `inputs`, which finds it. Everything here names the field, what it would have taken and a way out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chainweaver.compiler.core_schemas import gives_stream
from chainweaver.compiler.findings import Findings, describe_all
from chainweaver.compiler.keys import Visible
from chainweaver.compiler.models import Facts, InputField
from chainweaver.compiler.paths import DeadEnd
from chainweaver.compiler.types import describe
from chainweaver.exceptions import FlowExecutionError, InputMappingError, SchemaValidationError
from chainweaver.flow.mapping import (
    DefaultSource,
    KeySource,
    LiteralSource,
    MappingSyntaxError,
    PointerSource,
    Source,
    TemplateSource,
)

if TYPE_CHECKING:
    from chainweaver.compiler.lower import Lowered


class InputFindings:
    """Words for the findings about the inputs of one step."""

    def __init__(self, step: Lowered, visible: Visible, findings: Findings) -> None:
        self.step = step
        self.visible = visible
        self.findings = findings

    def unknown_target(self, target: str, schema: Facts) -> None:
        """The mapping feeds a field that the tool does not have."""
        hint = self.findings.hint(target, schema.field_names(), "its fields are")
        detail = f"tool '{self.step.tool_name}' has no input field '{target}'; {hint}"
        self._schema_error(target, "unknown_target_key", detail, certain=True)

    def missing_required(self, target: str, *, certain: bool) -> None:
        """A field without a default gets no value."""
        hint = self.findings.hint(target, self.visible.known_keys(self.step.level), "known keys are")
        detail = (
            f"required field '{target}' of tool '{self.step.tool_name}' gets no value; feed it in input_mapping, or "
            f"let an earlier step or the flow's input provide it; {hint}"
        )
        self._schema_error(target, "missing_required_input", detail, certain=certain)

    def missing_key(self, target: str, text: str, key: str, *, certain: bool) -> None:
        """A source reads a key that nobody provides."""
        step, known = self.step, self.visible.known_keys(self.step.level)
        hint = self.findings.hint(key, known, "known keys are")
        self.findings.error(
            step,
            "missing_mapping_key",
            f"field '{target}' of tool '{step.tool_name}' reads unknown key '{text}'; {hint}",
            (lambda: InputMappingError(step.tool_name, step.index, text, known=known, step_name=step.label))
            if certain
            else None,
            target,
        )

    def dead_end(self, target: str, text: str, end: DeadEnd) -> None:
        """A path leads to a part that the declared type does not have.

        Only a run can tell for certain: an instance of a subclass may have more.
        """
        hint = self.findings.hint(end.token, end.names, "the names there are")
        detail = (
            f"field '{target}' of tool '{self.step.tool_name}' reads unknown key '{text}': there is no '{end.token}'; "
            f"{hint}"
        )
        self.findings.error(self.step, "missing_mapping_key", detail, None, target)

    def type_mismatch(self, field: InputField, source: Source, kinds: list[Any]) -> None:
        """No value that the source can give would pass the field."""
        detail = (
            f"field '{field.name}' of tool '{self.step.tool_name}' takes {describe(field.kind)}, but {_told(source)} "
            f"gives {describe_all(kinds)}; {_way_out(field, kinds)}"
        )
        self._schema_error(field.name, "type_mismatch", detail, certain=True)

    def implicit_any(self, field: InputField, key: str) -> None:
        """A typed field is fed by an output that is declared to be anything, so that nothing could be checked."""
        detail = (
            f"field '{field.name}' of tool '{self.step.tool_name}' takes {describe(field.kind)}, and key '{key}' is "
            "declared as Any, so that nothing is checked before the run; give the output a type"
        )
        self.findings.warning(self.step, "implicit_any", detail, field.name)

    def syntax(self, target: str, exc: MappingSyntaxError) -> None:
        """A source is written in a way that has no meaning."""
        step, detail = self.step, f"field '{target}': {exc}"
        self.findings.error(
            step,
            "mapping_syntax",
            detail,
            lambda: FlowExecutionError(step.tool_name, step.index, detail, step_name=step.label),
            target,
        )

    def _schema_error(self, target: str, issue_type: str, detail: str, *, certain: bool) -> None:
        step = self.step
        self.findings.error(
            step,
            issue_type,
            detail,
            (lambda: SchemaValidationError(step.tool_name, step.index, detail, context="input", step_name=step.label))
            if certain
            else None,
            target,
        )


def _way_out(field: InputField, kinds: list[Any]) -> str:
    if any(map(gives_stream, kinds)) and not gives_stream(field.kind):
        return "let the tool take a Stream, or collect the items in a step before"
    return "map another key, or convert it in a step before"


def _told(source: Source) -> str:
    if isinstance(source, LiteralSource):
        return "the literal"
    if isinstance(source, TemplateSource):
        return f"the template '{source.text}'"
    inner = source.source if isinstance(source, DefaultSource) else source
    return f"key '{_text_of(inner)}'"


def _text_of(source: KeySource | PointerSource) -> str:
    return source.key if isinstance(source, KeySource) else source.text
