"""Every error that chainweaver raises or records.

One root, five families cut by what the caller can do: fix the definition, fix the input, look at the tool, call again,
report a bug. An error holds facts; the text is composed from them here and nowhere else. `str(error)` starts with one
sentence, `error.render()` puts the code in front of it, and both go on with lines that say where, what is known, why
and what to do.

Imports nothing but the standard library, and cheap parts of it. Every other room may import this file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, ClassVar, TypedDict

    from typing_extensions import Self, Unpack

    class Help(TypedDict, total=False):
        """Facts that every error takes as keywords; each one may be missing or None."""

        where: str | None
        known: Iterable[str] | None
        why: str | None
        fix: str | None

    class Place(Help, total=False):
        """Facts for the errors whose sentence does not name the flow or the step itself."""

        flow_name: str | None
        flow_version: str | None
        step_name: str | None


LISTED_NAMES = 20
"""How many known names a message shows before it says how many more there are."""


def suggest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a mistyped one most likely stands for, or None when nothing comes near.

    >>> suggest("row", ["count", "rows"])
    'rows'
    >>> suggest("price", ["count", "rows"]) is None
    True
    """
    # Only a failing call needs it, and it pulls in heapq and re.
    import difflib

    close = difflib.get_close_matches(str(name), [str(one) for one in known], n=1, cutoff=0.6)
    return close[0] if close else None


def told(exc: BaseException) -> str:
    """An exception in a few words, for records and messages: our sentence, or class and text.

    >>> told(OSError("host is down")), told(ValueError())
    ('OSError: host is down', 'ValueError')
    """
    if isinstance(exc, ChainWeaverError):
        return exc.sentence
    try:
        text = str(exc)
    except Exception:  # a foreign __str__ may raise anything, and the class says enough
        text = ""
    inner = getattr(exc, "exceptions", None)
    if isinstance(inner, tuple):  # a group: what it holds is what went wrong
        text = f"{text}: {'; '.join(map(told, inner[:5]))}" + ("; ..." if len(inner) > 5 else "")
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def violations(exc: Exception) -> str:
    """The findings of a validator in one line, without the refused values; any other exception as `told` says it.

    >>> from pydantic import BaseModel
    >>> class Row(BaseModel):
    ...     n: int
    >>> try:
    ...     Row(n="many")
    ... except ValueError as exc:
    ...     violations(exc)
    'n: Input should be a valid integer, unable to parse string as an integer'
    """
    try:
        errors: Any = getattr(exc, "errors", None)
        found = errors(include_url=False)
        told_each = [(".".join(map(str, one["loc"])), _violation(one)) for one in found]
        return "; ".join(f"{place}: {message}" if place else message for place, message in told_each)
    except Exception:  # no ValidationError at all, or one whose text comes from a foreign __str__
        return told(exc)


def _violation(found: Mapping[str, Any]) -> str:
    # A decorator may hide that a function is async; what it gives is no value then, and no type would help.
    if isinstance(found["input"], CoroutineType):
        return "it is a coroutine, which nobody awaits; write the function and its decorators with 'async def'"
    # The one message of Pydantic that repeats what it refuses.
    if found["type"] == "union_tag_invalid":
        facts = found["ctx"]
        return f"Input tag found using {facts['discriminator']} is none of the expected tags: {facts['expected_tags']}"
    return str(found["msg"])


def error_code_registry() -> dict[str, type[ChainWeaverError]]:
    """All codes in ascending order, each with the class that carries it.

    >>> error_code_registry()["E001"].__name__
    'ToolNotFoundError'
    """
    found: dict[str, type[ChainWeaverError]] = {}
    todo: list[type[ChainWeaverError]] = [ChainWeaverError]
    while todo:
        kind = todo.pop()
        todo.extend(kind.__subclasses__())
        # Classes that a user derives from ours keep the code of their parent and are not listed.
        if kind.__module__ == __name__ and "code" in vars(kind) and kind is not ChainWeaverError:
            found[kind.code] = kind
    return dict(sorted(found.items()))


def _rebuild(
    kind: type[ChainWeaverError], args: tuple[Any, ...], facts: dict[str, Any], state: dict[str, Any]
) -> ChainWeaverError:
    """Call the constructor as it was called the first time, then bring back what was set later (for unpickling)."""
    error = kind(*args, **facts)
    vars(error).update(state)
    return error


def _names(names: Iterable[object]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(str(name) for name in list(names)[:LISTED_NAMES])
    hidden = len(names) - LISTED_NAMES
    return f"{shown}, ... and {hidden} more" if hidden > 0 else shown


def _shown(text: str) -> str:
    """A text of any length and content as a piece of one line."""
    shown = "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text[:120])
    return shown if len(text) <= 120 else f"{shown}..."


def _closed(text: str) -> str:
    """The text with a final period, unless it ends like a sentence already."""
    text = text.rstrip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


class ChainWeaverError(Exception):
    """The root of all errors of this library.

    The arguments of the constructor are attributes. Facts that help the reader (`where`, `known`, `why`, `fix` and,
    where the sentence does not name them, `flow_name`, `flow_version`, `step_name`) are keywords, None when unknown.
    An error can be pickled and copied with all of them.

    Attributes:
        code: Stable identifier such as "E005". It prints as "CW-E005" and never gets another meaning.
        sentence: What happened, in one sentence. The first line of `str(error)`.
        where: The place: flow, step, file and line.
        known: Names that would have been right.
        why: The reason behind the failure.
        fix: What to do about it.

    >>> error = InputMappingError("total", 2, "row", known=["count", "rows"], where="flow 'invoice', step 2")
    >>> print(error.render())
    CW-E005 Input mapping of step 'total' reads unknown key 'row'.
      where   flow 'invoice', step 2
      known   count, rows
      fix     did you mean 'rows'?
    """

    code: ClassVar[str] = "E000"
    _sought: ClassVar[str] = ""
    """Attribute that holds the mistyped name, for the errors that are about a name nobody knows."""

    flow_name: str | None = None
    flow_version: str | None = None
    step_name: str | None = None

    def __new__(cls, *args: Any, **facts: Any) -> Self:
        error = super().__new__(cls, *args)
        error._call = (args, facts)
        return error

    def __init__(
        self,
        sentence: str,
        *,
        where: str | None = None,
        known: Iterable[str] | None = None,
        why: str | None = None,
        fix: str | None = None,
        flow_name: str | None = None,
        flow_version: str | None = None,
        step_name: str | None = None,
    ) -> None:
        super().__init__(*self.args)
        first, _, rest = sentence.strip().partition("\n")
        self.sentence = _closed(first.rstrip(":")) if rest else _closed(first)
        self._continued = rest
        self.where = where
        self.known = None if known is None else tuple(known)
        self.why = why
        self.fix = fix
        self._placed = flow_name is not None
        if flow_name is not None:
            self.flow_name = flow_name
        if flow_version is not None:
            self.flow_version = flow_version
        if step_name is not None:
            self.step_name = step_name

    _call: tuple[tuple[Any, ...], dict[str, Any]]

    def with_facts(self, **facts: Unpack[Place]) -> Self:
        """Fill in facts that were not known where the error was made; facts that it has already stay.

        Returns:
            The same error, so that `raise error.with_facts(where=...)` reads well.
        """
        known = facts.pop("known", None)
        if self.known is None and known is not None:
            self.known = tuple(known)
        for name, value in facts.items():
            if value is not None and getattr(self, name) is None:
                setattr(self, name, value)
                self._placed = self._placed or name == "flow_name"
        return self

    def help_lines(self) -> list[str]:
        """The lines below the sentence: the rest of a long detail, then where, known, why and fix."""
        lines = [f"  {line}" for line in self._continued.splitlines()]
        lines += self._offenders()
        for label, text in (
            ("where", self._where()),
            ("known", _listed(self.known) if self.known else None),
            ("why", self.why),
            ("fix", self._fix()),
        ):
            if text:
                # Continuation lines stand below the text, not below the label.
                lines.append(f"  {label:<8}" + text.replace("\n", "\n" + " " * 10))
        return lines

    def render(self) -> str:
        """The whole message with the printed code in front: "CW-E005 Input mapping of ..."."""
        return f"CW-{self.code} {self}"

    def _offenders(self) -> list[str]:
        return []

    def _where(self) -> str | None:
        if self.where is not None or not self._placed:
            return self.where
        version = f" {self.flow_version}" if self.flow_version else ""
        step_index = getattr(self, "step_index", None)
        step = f", step {step_index}" if isinstance(step_index, int) and step_index >= 0 else ""
        # The sentence often names the tool only.
        if self.step_name is not None and f"'{self.step_name}'" not in self.sentence:
            step = f"{step} ('{self.step_name}')" if step else f", step '{self.step_name}'"
        return f"flow '{self.flow_name}'{version}{step}"

    def _fix(self) -> str | None:
        if self.fix is not None or not self.known or not self._sought:
            return self.fix
        near = suggest(getattr(self, self._sought), self.known)
        return None if near is None else f"did you mean '{near}'?"

    def __str__(self) -> str:
        return "\n".join([self.sentence, *self.help_lines()])

    def __reduce__(self) -> tuple[Any, ...]:
        args, facts = self._call
        if isinstance(facts.get("known"), Iterable):
            facts = {**facts, "known": self.known}
        state = {name: value for name, value in vars(self).items() if name != "_call"}
        return _rebuild, (type(self), args, facts, state)


# --------------------------------------------------------------------------------------------------------------------
# Families: catch one of these when the reaction is the same for all of its members.


class DefinitionError(ChainWeaverError):
    """Fix the definition: a flow, a tool, a file or what is registered is not as it has to be."""


class InputError(ChainWeaverError):
    """Fix the input: the definition is fine, the values or the arguments of this call are not."""


class ToolError(ChainWeaverError):
    """Look at the tool (or the callback): it was called as agreed and did not do its part; see `__cause__`."""


class StoppedError(ChainWeaverError):
    """Call again, perhaps with other permissions: the run was stopped or refused, nothing is broken."""


class InternalError(ChainWeaverError):
    """Report a bug, or look at the disk: something happened that the caller cannot cause."""


# --------------------------------------------------------------------------------------------------------------------
# Fix the definition.


class ToolNotFoundError(DefinitionError):
    """A step, a fallback or a caller names a tool that nobody registered.

    Attributes:
        tool_name: The name that was looked up.
    """

    code = "E001"
    _sought = "tool_name"

    def __init__(self, tool_name: str, **facts: Unpack[Place]) -> None:
        super().__init__(f"Tool '{tool_name}' is not registered.", **facts)
        self.tool_name = tool_name


class FlowNotFoundError(InputError):
    """No flow is registered under this name, or none in this version.

    Attributes:
        flow_name: The name that was looked up.
        version: The version that was asked for; None when any would have done.
    """

    code = "E002"
    _sought = "flow_name"

    def __init__(self, flow_name: str, version: str | None = None, **facts: Unpack[Help]) -> None:
        which = f"Flow '{flow_name}'" if version is None else f"Flow '{flow_name}' version '{version}'"
        super().__init__(f"{which} is not registered.", **facts)
        self.flow_name = flow_name
        self.version = version


class FlowAlreadyExistsError(DefinitionError):
    """A flow of this name and version is registered, and overwriting was not asked for.

    Attributes:
        flow_name: Name of the flow.
        version: Its version, where known.
    """

    code = "E003"

    def __init__(self, flow_name: str, version: str | None = None, **facts: Unpack[Help]) -> None:
        which = f"Flow '{flow_name}'" if version is None else f"Flow '{flow_name}' version '{version}'"
        facts = {"fix": "pass overwrite=True to replace it, or give the new flow another version", **facts}
        super().__init__(f"{which} is already registered.", **facts)
        self.flow_name = flow_name
        self.version = version


class SchemaValidationError(InputError):
    """A value does not fit the schema that stands at its border.

    Attributes:
        tool_name: Name of the tool; for the borders of a flow, the name of the flow.
        step_index: Position in plan order; -1 for the input of a flow, the number of steps for its output.
        detail: What does not fit.
        context: Which border: "input", "output", "flow input", "flow output", "input contract" and so on.
    """

    code = "E004"

    def __init__(
        self, tool_name: str, step_index: int, detail: str, *, context: str | None = None, **facts: Unpack[Place]
    ) -> None:
        border = f" ({context})" if context else ""
        super().__init__(
            f"Schema validation failed for tool '{tool_name}' at step {step_index}{border}: {detail}"
            if not (context or "").startswith("flow")
            else f"Schema validation failed for flow '{tool_name}'{border}: {detail}",
            **facts,
        )
        self.tool_name = tool_name
        self.step_index = step_index
        self.detail = detail
        self.context = context


class InputMappingError(DefinitionError):
    """An input mapping reads a key that the context does not have.

    Attributes:
        tool_name: Name of the tool of the step.
        step_index: Position of the step in plan order.
        key: The key or pointer that was read.
    """

    code = "E005"
    _sought = "key"

    def __init__(self, tool_name: str, step_index: int, key: str, **facts: Unpack[Place]) -> None:
        step = facts.get("step_name") or tool_name
        super().__init__(f"Input mapping of step '{step}' reads unknown key '{key}'.", **facts)
        self.tool_name = tool_name
        self.step_index = step_index
        self.key = key


class ToolDefinitionError(DefinitionError):
    """A function cannot become a tool.

    Attributes:
        function_name: Name of the function or of the tool.
        detail: What is missing or not supported.
    """

    code = "E007"

    def __init__(self, function_name: str, detail: str, **facts: Unpack[Help]) -> None:
        super().__init__(f"Function '{function_name}' cannot become a tool: {detail}", **facts)
        self.function_name = function_name
        self.detail = detail


class DAGDefinitionError(DefinitionError):
    """A DAG flow is not a DAG, or its steps do not fit together.

    Attributes:
        flow_name: Name of the flow.
        reason: "duplicate_step_id", "unknown_dependency", "cycle" or "unknown_branch_target".
        detail: Which steps, in words.
    """

    code = "E010"

    def __init__(self, flow_name: str, reason: str, detail: str, **facts: Unpack[Help]) -> None:
        super().__init__(f"DAG flow '{flow_name}' is not valid ({reason}): {detail}", **facts)
        self.flow_name = flow_name
        self.reason = reason
        self.detail = detail


class ContextKeyCollisionError(DefinitionError):
    """A step writes context keys that exist already, and the flow says that this is an error.

    Attributes:
        flow_name: Name of the flow.
        step_index: Position of the later step in plan order.
        step_name: Its name.
        keys: The keys, in the order in which the step wrote them.
        result: The result of the run up to here; None when no run had started.
    """

    code = "E013"
    step_name: str

    def __init__(
        self,
        flow_name: str,
        step_index: int,
        step_name: str,
        keys: Sequence[str],
        *,
        result: Any = None,
        **facts: Unpack[Help],
    ) -> None:
        facts = {"fix": "rename with output_mapping, or set on_context_collision to 'warn' or 'overwrite'", **facts}
        super().__init__(
            f"Step '{step_name}' (step {step_index}) of flow '{flow_name}' overwrites context keys {_names(keys)}.",
            **facts,
        )
        self.flow_name = flow_name
        self.step_index = step_index
        self.step_name = step_name
        self.keys = keys
        self.result = result


class LaneUnsupportedError(DefinitionError):
    """A flow uses constructs that the chosen lane cannot run; nothing was started.

    Attributes:
        flow_name: Name of the flow.
        unsupported: Every construct that is in the way, each with its step.
        lane: Name of the lane, where known.
    """

    code = "E100"

    def __init__(
        self, flow_name: str, unsupported: Collection[str], *, lane: str | None = None, **facts: Unpack[Help]
    ) -> None:
        which = f"the {lane} lane" if lane else "this lane"
        super().__init__(
            f"Flow '{flow_name}' cannot run on {which}; not supported: {', '.join(map(str, unsupported))}.",
            **facts,
        )
        self.flow_name = flow_name
        self.unsupported = unsupported
        self.lane = lane


class AsyncLaneUnsupportedError(LaneUnsupportedError):
    """The same for the async lane.

    Attributes:
        flow_name: Name of the flow.
        unsupported: Every construct that is in the way, each with its step.
    """

    code = "E014"

    def __init__(self, flow_name: str, unsupported: Collection[str], **facts: Unpack[Help]) -> None:
        super().__init__(flow_name, unsupported, lane="async", **facts)


class FlowCompositionError(DefinitionError):
    """Flows that call flows do not fit together.

    Attributes:
        flow_name: The flow that was about to run.
        reason: "cycle", "max_depth_exceeded" or "unknown_flow".
        detail: The path of flow names, or the missing one.
    """

    code = "E015"

    def __init__(self, flow_name: str, reason: str, detail: str, **facts: Unpack[Help]) -> None:
        super().__init__(f"Flow '{flow_name}' cannot be composed ({reason}): {detail}", **facts)
        self.flow_name = flow_name
        self.reason = reason
        self.detail = detail


class InvalidFlowVersionError(DefinitionError):
    """A flow version is not a version as PEP 440 writes it.

    Attributes:
        flow_name: Name of the flow.
        version: The text that is no version.
    """

    code = "E016"

    def __init__(self, flow_name: str, version: str, **facts: Unpack[Help]) -> None:
        facts = {"fix": "write it like 1.0.0, 2.1 or 1.0rc1 (PEP 440)", **facts}
        super().__init__(f"Flow '{flow_name}' has an invalid version '{version}'.", **facts)
        self.flow_name = flow_name
        self.version = version


class FlowSerializationError(DefinitionError):
    """A flow file or text cannot be read, or a flow cannot be written.

    Attributes:
        detail: What is wrong, with line and column (syntax) or JSON Pointer (structure).
        source: Name of the file or of the origin, where known.
    """

    code = "E017"

    def __init__(self, detail: str, *, source: str | None = None, **facts: Unpack[Place]) -> None:
        place = f" '{source}'" if source else ""
        super().__init__(f"Flow definition{place} is not valid: {detail}", **facts)
        self.detail = detail
        self.source = source


class PluginDiscoveryError(DefinitionError):
    """An entry point of an installed package cannot be used.

    Attributes:
        entry_point: Group and name, such as "chainweaver.tools:acme".
        detail: What went wrong.
    """

    code = "E022"

    def __init__(self, entry_point: str, detail: str, **facts: Unpack[Help]) -> None:
        super().__init__(f"Plugin '{entry_point}' cannot be loaded: {detail}", **facts)
        self.entry_point = entry_point
        self.detail = detail


class PredicateSyntaxError(DefinitionError):
    """The predicate of a conditional edge uses something that predicates do not have.

    Attributes:
        predicate: The text.
        detail: What is not allowed, and where.
    """

    code = "E036"

    def __init__(self, predicate: str, detail: str, **facts: Unpack[Place]) -> None:
        super().__init__(f"Predicate '{_shown(predicate)}' is not valid: {detail}", **facts)
        self.predicate = predicate
        self.detail = detail


class FlowBuilderError(DefinitionError):
    """A builder was asked for a flow before it knew everything.

    Attributes:
        detail: What is missing; names the argument in single quotes.
    """

    code = "E037"

    def __init__(self, detail: str, **facts: Unpack[Help]) -> None:
        super().__init__(f"Flow cannot be built: {detail}", **facts)
        self.detail = detail


class OutputMappingError(DefinitionError):
    """An output mapping takes a key that the tool did not return.

    Attributes:
        tool_name: Name of the tool of the step.
        step_index: Position of the step in plan order.
        key: The output key that is missing.
    """

    code = "E041"
    _sought = "key"

    def __init__(self, tool_name: str, step_index: int, key: str, **facts: Unpack[Place]) -> None:
        step = facts.get("step_name") or tool_name
        super().__init__(f"Output mapping of step '{step}' takes unknown output key '{key}'.", **facts)
        self.tool_name = tool_name
        self.step_index = step_index
        self.key = key


class SchemaRefPolicyError(DefinitionError):
    """A class reference points to something that the policy does not let a flow file import.

    Attributes:
        ref: The reference, "module:qualname".
        detail: Which rule forbids it, or why it does not resolve.
    """

    code = "E051"

    def __init__(self, ref: str, detail: str, **facts: Unpack[Place]) -> None:
        super().__init__(f"Class reference '{ref}' is refused: {detail}", **facts)
        self.ref = ref
        self.detail = detail


class FlowCompileError(DefinitionError):
    """A flow has compile errors and the executor was told not to start such a flow.

    Attributes:
        flow_name: Name of the flow.
        errors: All compile errors, in step order.
    """

    code = "E101"

    def __init__(self, flow_name: str, errors: Sequence[Any], **facts: Unpack[Help]) -> None:
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        super().__init__(f"Flow '{flow_name}' does not compile: {count}.", **facts)
        self.flow_name = flow_name
        self.errors = errors

    def _offenders(self) -> list[str]:
        return [f"  {self._line(error)}" for error in self.errors]

    @staticmethod
    def _line(error: Any) -> str:
        detail = getattr(error, "detail", None)
        if detail is None:
            return str(error)
        return f"step {error.step_index} ({error.tool_name}), {error.issue_type}: {detail}"


class SharedMutationError(DefinitionError):
    """A step changes a value in place that others look at, at the same time or without having been told.

    Attributes:
        tool_name: Tool of the step.
        step_index: Position of the step in plan order.
        key: The context key of the value.
        other: The step that may look at it at the same time, the same one for the items of a map; None for a change
            that was found while the flow ran, and that the tool does not declare.
    """

    code = "E122"
    step_name: str | None = None

    def __init__(
        self,
        tool_name: str,
        step_index: int,
        key: str,
        *,
        step_name: str | None = None,
        other: str | None = None,
        **facts: Unpack[Help],
    ) -> None:
        name = step_name or tool_name
        if other is None:
            sentence = f"Step '{name}' changed '{key}' in place, which its tool '{tool_name}' does not declare."
            fix = f"copy '{key}' in the tool before changing it, or declare the field in mutates= of the tool"
        elif other == name:
            sentence = f"Step '{name}' changes '{key}' in place, which all items of its map share."
            fix = "set map_concurrency to 1, change a copy, or drop the field from mutates= of the tool"
        else:
            sentence = f"Step '{name}' changes '{key}' in place while step '{other}' may be looking at it."
            fix = "let one of them depend on the other, copy the value in a step before, or drop it from mutates="
        facts = {"fix": fix, **facts}
        super().__init__(sentence, **facts)
        self.tool_name = tool_name
        self.step_index = step_index
        self.key = key
        self.other = other
        if step_name is not None:
            self.step_name = step_name


class MissingExtraError(DefinitionError, ImportError):
    """An optional dependency is needed for this call and is not installed.

    Attributes:
        extra: Name of the extra that brings it.
        purpose: What needs it, such as "Reading YAML".
    """

    code = "E105"

    def __init__(self, extra: str, purpose: str, **facts: Unpack[Help]) -> None:
        facts = {"fix": f"pip install 'chainweaver[{extra}]'", **facts}
        super().__init__(f"{purpose} needs the extra '{extra}'.", **facts)
        self.extra = extra
        self.purpose = purpose


class ExportError(DefinitionError):
    """A flow or a tool cannot be written as what somebody else calls: a tool dictionary, a plain function.

    Attributes:
        subject: What was to be exported, such as "flow 'invoice'".
        target: What it was to become, such as "an OpenAI function".
        detail: What is in the way.
    """

    code = "E108"

    def __init__(self, subject: str, target: str, detail: str, **facts: Unpack[Help]) -> None:
        super().__init__(f"{subject[:1].upper()}{subject[1:]} cannot become {target}: {detail}", **facts)
        self.subject = subject
        self.target = target
        self.detail = detail


# --------------------------------------------------------------------------------------------------------------------
# Fix the input.


class CheckpointerNotConfiguredError(InputError):
    """A run should be resumed, but the executor has no checkpointer.

    Attributes:
        operation: What was asked for, such as "resume_flow".
    """

    code = "E019"

    def __init__(self, operation: str = "resume_flow", **facts: Unpack[Help]) -> None:
        facts = {"fix": "FlowExecutor(..., checkpointer=FileCheckpointer('checkpoints'))", **facts}
        super().__init__(f"'{operation}' needs a checkpointer and the executor has none.", **facts)
        self.operation = operation


class CheckpointNotFoundError(InputError):
    """No checkpoint is stored for this run.

    Attributes:
        trace_id: The run that was asked for.
    """

    code = "E020"

    def __init__(self, trace_id: str, **facts: Unpack[Help]) -> None:
        super().__init__(f"No checkpoint is stored for run '{trace_id}'.", **facts)
        self.trace_id = trace_id


class TraceNotFoundError(InputError):
    """No trace is kept for this run.

    Attributes:
        trace_id: The run that was asked for.
    """

    code = "E109"
    _sought = "trace_id"

    def __init__(self, trace_id: str, **facts: Unpack[Help]) -> None:
        super().__init__(f"No trace is kept for run '{trace_id}'.", **facts)
        self.trace_id = trace_id


class UnrecordedCallError(InputError):
    """A replayed tool was called in a way that its cassette does not hold.

    Attributes:
        tool_name: Name of the tool.
        step_id: The step that called it.
        detail: How the call differs from the recording that comes nearest.
    """

    code = "E110"

    def __init__(self, tool_name: str, step_id: str, detail: str, **facts: Unpack[Help]) -> None:
        facts = {"fix": "call it as it was recorded, or delete the cassette to record anew", **facts}
        super().__init__(f"Call of tool '{tool_name}' at step '{step_id}' was not recorded: {detail}", **facts)
        self.tool_name = tool_name
        self.step_id = step_id
        self.detail = detail


class CassetteError(InputError):
    """A cassette cannot be read, or cannot be written.

    Attributes:
        cassette: Path of the file; "in memory" for one without.
        detail: What is in the way.
    """

    code = "E111"

    def __init__(self, cassette: str, detail: str, **facts: Unpack[Help]) -> None:
        super().__init__(f"Cassette '{cassette}' cannot be used: {detail}", **facts)
        self.cassette = cassette
        self.detail = detail


class ReplayError(InputError):
    """A recorded run does not hold what its replay would need.

    Attributes:
        trace_id: The recorded run.
        detail: What is missing, and where.
    """

    code = "E112"

    def __init__(self, trace_id: str, detail: str, **facts: Unpack[Help]) -> None:
        super().__init__(f"Run '{trace_id}' cannot be replayed: {detail}", **facts)
        self.trace_id = trace_id
        self.detail = detail


class CommandLineError(InputError):
    """What was typed on the command line cannot be carried out.

    Attributes:
        detail: What is in the way, in one sentence.
        invalid: A file or module is there, and what it holds is not right (exit status 1). Otherwise what was typed is
            wrong, or names what cannot be found (exit status 2).
    """

    code = "E106"

    def __init__(self, detail: str, *, invalid: bool = False, **facts: Unpack[Help]) -> None:
        super().__init__(detail, **facts)
        self.detail = detail
        self.invalid = invalid


class DynamicParameterError(InputError):
    """A call passes dynamic parameters that the flow does not name.

    Attributes:
        flow_name: Name of the flow.
        names: All the names that it does not know.
    """

    code = "E107"

    def __init__(self, flow_name: str, names: Sequence[str], **facts: Unpack[Help]) -> None:
        noun = "parameter" if len(names) == 1 else "parameters"
        super().__init__(f"Flow '{flow_name}' has no dynamic {noun} {_names(names)}.", **facts)
        self.flow_name = flow_name
        self.names = names

    def _fix(self) -> str | None:
        near = None if self.fix or not self.known else suggest(self.names[0], self.known)
        return self.fix if near is None else f"did you mean '{near}'?"


# --------------------------------------------------------------------------------------------------------------------
# Look at the tool.


class FlowExecutionError(ToolError):
    """A tool raised, or its outputs cannot take their place in the context.

    Attributes:
        tool_name: Name of the tool.
        step_index: Position of the step in plan order.
        detail: Class and text of the original exception, which is `__cause__`.
    """

    code = "E006"

    def __init__(self, tool_name: str, step_index: int, detail: str, **facts: Unpack[Place]) -> None:
        super().__init__(f"Tool '{tool_name}' failed at step {step_index}: {detail}", **facts)
        self.tool_name = tool_name
        self.step_index = step_index
        self.detail = detail


class ToolTimeoutError(ToolError):
    """A tool, or the sub-flow of a step, did not finish in its time.

    Attributes:
        tool_name: Name of the tool or of the sub-flow.
        timeout_seconds: The limit that was in force, in seconds.
    """

    code = "E008"

    def __init__(self, tool_name: str, timeout_seconds: float, kind: str = "Tool", **facts: Unpack[Place]) -> None:
        super().__init__(f"{kind} '{tool_name}' did not finish within {timeout_seconds} seconds.", **facts)
        self.tool_name = tool_name
        self.timeout_seconds = timeout_seconds


class ToolOutputSizeError(ToolError):
    """A tool returned more than its `max_output_size` allows.

    Attributes:
        tool_name: Name of the tool.
        size: Size of the JSON form of the output, in bytes.
        limit: The limit, in bytes.
    """

    code = "E009"

    def __init__(self, tool_name: str, size: int, limit: int, **facts: Unpack[Place]) -> None:
        super().__init__(f"Tool '{tool_name}' returned {size} bytes, more than its limit of {limit} bytes.", **facts)
        self.tool_name = tool_name
        self.size = size
        self.limit = limit


class WorkerDiedError(ToolError):
    """The worker process of a call ended before the call did: it was killed, crashed, or left by itself.

    Attributes:
        tool_name: Name of the tool.
        exit_code: With which it ended; negative: the number of the signal that killed it; None: nobody knows.
        signal: Name of that signal, such as "SIGKILL"; None where there was none.
    """

    code = "E120"

    def __init__(
        self, tool_name: str, exit_code: int | None, signal: str | None = None, **facts: Unpack[Place]
    ) -> None:
        how = "ended in the middle of the call"
        if signal is not None:
            how = f"was killed by signal {signal}"
        elif exit_code is not None:
            how += f", with exit code {exit_code}"
        super().__init__(f"The worker process of tool '{tool_name}' {how}.", **facts)
        self.tool_name = tool_name
        self.exit_code = exit_code
        self.signal = signal


class ProcessBorderError(ToolError):
    """Something cannot get into a worker process, or out of it.

    Attributes:
        tool_name: Name of the tool.
        border: What it is: "tool", "input", "output" or "exception".
        field: The field with the value that is in the way; None where it is no single one.
        detail: Why.
    """

    code = "E121"

    def __init__(self, tool_name: str, border: str, field: str | None, detail: str, **facts: Unpack[Place]) -> None:
        named = f" '{field}'" if field is not None else ""
        super().__init__(_BORDERS[border].format(tool=tool_name, field=named, detail=detail), **facts)
        self.tool_name = tool_name
        self.border = border
        self.field = field
        self.detail = detail


_BORDERS = {
    "tool": "Tool '{tool}' cannot run in a worker process: {detail}",
    "input": "Input{field} of tool '{tool}' cannot be sent to its worker process: {detail}",
    "output": "Output{field} of tool '{tool}' cannot be sent back from its worker process: {detail}",
    "exception": "Tool '{tool}' raised in its worker process what cannot be sent back: {detail}",
}


class StreamReadError(ToolError):
    """A stream cannot be read, or not in this way: it was read already, it is closed, or its source is async.

    Attributes:
        field: The field that holds it; None for a stream that was never in one.
        detail: Why.
    """

    code = "E123"

    def __init__(self, field: str | None, detail: str, **facts: Unpack[Place]) -> None:
        named = "The stream" if field is None else f"Stream '{field}'"
        super().__init__(f"{named} cannot be read: {detail}", **facts)
        self.field = field
        self.detail = detail


class StreamItemError(ToolError):
    """An item of a stream is not of the type that the field declares.

    Attributes:
        field: The field that holds the stream; None for a stream that was never in one.
        index: Position of the item, from 0.
        detail: What does not fit.
    """

    code = "E124"

    def __init__(self, field: str | None, index: int, detail: str, **facts: Unpack[Place]) -> None:
        whose = "the stream" if field is None else f"stream '{field}'"
        super().__init__(f"Item {index} of {whose} does not fit: {detail}", **facts)
        self.field = field
        self.index = index
        self.detail = detail


class DecisionCallbackError(ToolError):
    """A decision callback raised, or answered with something that is no candidate.

    Attributes:
        step_name: The step that asked.
        step_index: Its position in plan order.
        detail: What the callback did.
    """

    code = "E031"
    step_name: str

    def __init__(self, step_name: str, step_index: int, detail: str, **facts: Unpack[Help]) -> None:
        super().__init__(f"Decision at step {step_index} ('{step_name}') failed: {detail}", **facts)
        self.step_name = step_name
        self.step_index = step_index
        self.detail = detail


class VerificationError(ToolError):
    """Two runs that should be the same are not, or a run is not what it should be.

    Attributes:
        what: What was verified: a replay, two traces, a flow.
        detail: The first thing that is otherwise.
    """

    code = "E113"

    def __init__(self, what: str, detail: str, **facts: Unpack[Place]) -> None:
        super().__init__(f"{what}: {detail}", **facts)
        self.what = what
        self.detail = detail


class CheckpointEncodeError(ToolError):
    """A tool returned a value that no codec can checkpoint, or a run was given one.

    Attributes:
        tool_name: Name of the tool; of the flow for a value of its input.
        step_index: Position of the step in plan order; -1 for the input of the flow.
        key: The output key, or the key of the input, that holds the value.
        detail: Type of the value and why it cannot be stored.
    """

    code = "E103"

    def __init__(self, tool_name: str, step_index: int, key: str, detail: str, **facts: Unpack[Place]) -> None:
        whose = f"Output '{key}' of tool '{tool_name}' at step {step_index}"
        if step_index < 0:
            whose = f"Input '{key}' of flow '{tool_name}'"
        super().__init__(f"{whose} cannot be checkpointed: {detail}", **facts)
        self.tool_name = tool_name
        self.step_index = step_index
        self.key = key
        self.detail = detail


# --------------------------------------------------------------------------------------------------------------------
# Call again.


class FlowStatusError(StoppedError):
    """A flow is registered, but its status does not let it run.

    Attributes:
        flow_name: Name of the flow.
        status: The status it has, such as "disabled".
    """

    code = "E011"

    def __init__(self, flow_name: str, status: str, **facts: Unpack[Help]) -> None:
        status = str(getattr(status, "value", status))
        facts = {"fix": "set its status to 'active', or pass force=True to run it anyway", **facts}
        super().__init__(f"Flow '{flow_name}' has status '{status}' and does not run.", **facts)
        self.flow_name = flow_name
        self.status = status


class FlowCancelledError(StoppedError):
    """A run ended early, by its token or by its deadline.

    Attributes:
        flow_name: Name of the flow.
        step_index: The first step in plan order that did not finish.
        result: The result of the run up to here; None when no run had started.
        deadline_exceeded: The deadline passed.
        token_cancelled: The token was cancelled.
    """

    code = "E012"

    def __init__(
        self,
        flow_name: str,
        step_index: int,
        *,
        result: Any = None,
        deadline_exceeded: bool = False,
        token_cancelled: bool = False,
        **facts: Unpack[Help],
    ) -> None:
        reason = "deadline exceeded" if deadline_exceeded else "token cancelled" if token_cancelled else "cancelled"
        super().__init__(f"Flow '{flow_name}' was cancelled at step {step_index}: {reason}.", **facts)
        self.flow_name = flow_name
        self.step_index = step_index
        self.result = result
        self.deadline_exceeded = deadline_exceeded
        self.token_cancelled = token_cancelled


class CheckpointDriftError(StoppedError):
    """What a checkpoint recorded does not match what is registered now.

    Attributes:
        trace_id: The run that should go on.
        detail: The change, such as "flow version changed from '1.0.0' to '2.0.0'".
    """

    code = "E018"

    def __init__(self, trace_id: str, detail: str, **facts: Unpack[Place]) -> None:
        facts = {"fix": "start the run anew, or pass force=True to go on anyway", **facts}
        super().__init__(f"Run '{trace_id}' cannot be resumed: {detail}", **facts)
        self.trace_id = trace_id
        self.detail = detail


class CheckpointVersionError(StoppedError):
    """A checkpoint was written in a format that this release does not read.

    Attributes:
        trace_id: The run that should go on.
        found: The format version of the checkpoint.
        supported: The format version that is read here.
    """

    code = "E021"

    def __init__(self, trace_id: str, found: str | int, supported: str | int, **facts: Unpack[Help]) -> None:
        super().__init__(
            f"Checkpoint of run '{trace_id}' has format version '{found}', this release reads '{supported}'.", **facts
        )
        self.trace_id = trace_id
        self.found = found
        self.supported = supported


class ApprovalDeniedError(StoppedError):
    """Somebody was asked and said no.

    Attributes:
        tool_name: The tool that needs an approval.
        step_index: Position of the step in plan order.
        reason: The reason that was given, where there was one.
    """

    code = "E029"

    def __init__(self, tool_name: str, step_index: int, reason: str | None = None, **facts: Unpack[Place]) -> None:
        because = f": {reason}" if reason else ""
        super().__init__(f"Approval of tool '{tool_name}' at step {step_index} was denied{because}", **facts)
        self.tool_name = tool_name
        self.step_index = step_index
        self.reason = reason


class SafetyCeilingError(StoppedError):
    """A tool has stronger side effects than this executor lets through.

    Attributes:
        tool_name: Name of the tool.
        side_effects: What the tool declares.
        ceiling: The highest level that the executor allows.
    """

    code = "E030"

    def __init__(self, tool_name: str, side_effects: str, ceiling: str, **facts: Unpack[Place]) -> None:
        super().__init__(
            f"Tool '{tool_name}' has side effects '{side_effects}', above the ceiling '{ceiling}'.", **facts
        )
        self.tool_name = tool_name
        self.side_effects = side_effects
        self.ceiling = ceiling


class GuardrailViolationError(StoppedError):
    """A guardrail looked at a value and refused it.

    Attributes:
        tool_name: Name of the tool whose inputs or outputs were looked at.
        step_index: Position of the step in plan order.
        detail: What the guardrail said.
    """

    code = "E052"

    def __init__(self, tool_name: str, step_index: int, detail: str, **facts: Unpack[Place]) -> None:
        super().__init__(f"Guardrail refused tool '{tool_name}' at step {step_index}: {detail}", **facts)
        self.tool_name = tool_name
        self.step_index = step_index
        self.detail = detail


# --------------------------------------------------------------------------------------------------------------------
# Report a bug, or look at the disk.


class ArtifactCorruptError(InternalError):
    """Stored bytes are not the bytes that were written.

    Attributes:
        artifact: Path or key of what was read.
        detail: How it differs.
    """

    code = "E102"

    def __init__(self, artifact: str, detail: str, **facts: Unpack[Help]) -> None:
        super().__init__(f"Stored artifact '{artifact}' is corrupt: {detail}", **facts)
        self.artifact = artifact
        self.detail = detail


class RunProtocolError(InternalError):
    """A lane told a run something that cannot be; the run is unchanged.

    Attributes:
        detail: What was said, and in which state the step run was.
    """

    code = "E104"

    def __init__(self, detail: str, **facts: Unpack[Place]) -> None:
        facts = {"fix": "this is a bug in the lane; please report it with the flow", **facts}
        super().__init__(f"Run protocol violated: {detail}", **facts)
        self.detail = detail


__all__ = [
    "ApprovalDeniedError",
    "ArtifactCorruptError",
    "AsyncLaneUnsupportedError",
    "CassetteError",
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
    "ProcessBorderError",
    "ReplayError",
    "RunProtocolError",
    "SafetyCeilingError",
    "SchemaRefPolicyError",
    "SchemaValidationError",
    "SharedMutationError",
    "StoppedError",
    "StreamItemError",
    "StreamReadError",
    "ToolDefinitionError",
    "ToolError",
    "ToolNotFoundError",
    "ToolOutputSizeError",
    "ToolTimeoutError",
    "TraceNotFoundError",
    "UnrecordedCallError",
    "VerificationError",
    "WorkerDiedError",
    "error_code_registry",
    "suggest",
    "told",
    "violations",
]
