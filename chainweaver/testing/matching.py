"""Matching: a result against what a test expects of it, in part, and the difference in words.

Differences name the step, the field and both values. The same comparison serves the attester and the fuzzer, which
compare whole results with each other. Nothing here runs a flow.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, NamedTuple, TypeAlias

from pydantic import BaseModel

from chainweaver.exceptions import suggest
from chainweaver.executor.likeness import are_equal
from chainweaver.executor.settings import named
from chainweaver.results import ExecutionResult, StepRecord

SHOWN = 200
"""How many characters of a value a difference shows."""

MOST = 20
"""How many differences a message lists."""

RESULT_FIELDS = (*ExecutionResult.model_fields, "output", "steps")
RECORD_FIELDS = tuple(StepRecord.model_fields)

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""Where an object lives, as its `repr` says it."""

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "nothing"})()
"""Stands for a value that is not there."""

Path: TypeAlias = "tuple[str, ...]"


class Difference(NamedTuple):
    """Where two values differ.

    Attributes:
        path: Names and positions, from the outside in.
        expected: What should be there; MISSING for nothing.
        actual: What is there; MISSING for nothing.
    """

    path: Path
    expected: Any
    actual: Any

    def __str__(self) -> str:
        return f"{place_of(self.path)}: expected {_wanted(self.expected)}, got {shown(self.actual)}"


def assert_result_matches(
    result: ExecutionResult, expected: Mapping[str, Any] | ExecutionResult, *, ignore: Collection[str] = ()
) -> None:
    """Compare a result with what is expected of it; what is not named may be anything.

    Args:
        result: The result of a run.
        expected: Field of the result -> value. `output` is short for `final_output`. `steps` maps step ids to fields of
            their records, or lists the records of all steps in plan order. Mappings are compared by the keys that are
            named, at every depth; lists item by item and in full length; everything else by `==`, so that
            `pytest.approx` works. A class stands for its instances, a compiled pattern for texts in which it is found.
            Or another result: then status, output and the canonical traces are compared in full.
        ignore: Paths of what does not count, such as "output.when" or "steps.fetch.outputs"; `*` stands for any one
            name or position.

    Raises:
        AssertionError: They differ. The message lists every difference with its step, its field and both values.
        TypeError: It is no result.
        ValueError: A name in `expected` is no field of a result or of a record.

    >>> from chainweaver.executor import FlowExecutor
    >>> from chainweaver.flow import Flow, FlowStep
    >>> from chainweaver.tools import tool
    >>> @tool
    ... def double(n: int) -> int:
    ...     return 2 * n
    >>> flow = Flow(name="twice", description="Doubles.", steps=[FlowStep(tool_name="double")])
    >>> result = FlowExecutor(tools=[double], flows=[flow]).execute_flow("twice", {"n": 21})
    >>> assert_result_matches(result, {"status": "ok", "output": {"double": 42}, "steps": {"0": {"cached": False}}})
    >>> assert_result_matches(result, {"output": {"double": 43}})
    Traceback (most recent call last):
    AssertionError: Result of flow 'twice' 0.1.0 differs in 1 place:
      output.double: expected 43, got 42
    """
    if not isinstance(result, ExecutionResult):
        raise TypeError(f"result has to be an ExecutionResult, not {named(result)}.")
    if isinstance(expected, ExecutionResult):
        found = list(differences(story_of(expected), story_of(result), ignore, partial=False))
    else:
        found = list(_against(expected, result, ignore))
    if found:
        raise AssertionError("\n".join(_report(result, found)))


def differences(expected: Any, actual: Any, ignore: Collection[str] = (), *, partial: bool) -> Iterator[Difference]:
    """Where two values differ, in the order of the expected one.

    Args:
        partial: Mappings may hold keys that are not expected.
    """
    yield from _Comparison(ignore, partial=partial).of(expected, actual, ())


def story_of(result: ExecutionResult) -> dict[str, Any]:
    """What has to be the same in every run of a flow with equal input: no times, ids or lanes.

    Steps stand under their ids, in plan order, with the records of nested runs inside; they come first, because where
    several things differ the first step that does is the reason.
    """
    return {
        "steps": steps_of(result),
        "status": result.status,
        "output": result.final_output if result.success else result.partial_output,
    }


_UNTOLD = ("started_at", "ended_at", "duration_ms", "lane", "sub_result", "surplus")
_TOLD = tuple(name for name in RECORD_FIELDS if name not in _UNTOLD)


def steps_of(result: ExecutionResult) -> dict[str, dict[str, Any]]:
    """The records that count, by step id, without what may differ between lanes and schedules."""
    told = {}
    for record in result.execution_log:
        if record.surplus or record.status == "cancelled":
            continue
        # Causes before effects: what went in, what happened inside, what came out.
        fields: dict[str, Any] = {"inputs": record.inputs}
        if record.sub_result is not None:
            fields["sub_result"] = story_of(record.sub_result)
        fields.update({name: getattr(record, name) for name in _TOLD})
        told[_name_of(record)] = fields
    return told


def place_of(path: Path) -> str:
    """A path in words: which step, then which field.

    >>> place_of(("steps", "total", "outputs", "sum"))
    "step 'total', outputs.sum"
    """
    if path[:1] == ("steps",) and len(path) > 1:
        inner = path[2:]
        if inner[:1] == ("sub_result",) and len(inner) > 1:
            return f"step '{path[1]}', {place_of(inner[1:])}"
        return f"step '{path[1]}'" + (f", {'.'.join(inner)}" if inner else "")
    return ".".join(path) or "the value itself"


def shown(value: Any) -> str:
    """A value as a message shows it."""
    try:
        text = repr(value)
    except Exception:  # a foreign __repr__ may raise anything
        text = f"<{type(value).__qualname__}>"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


# ---- a result against a partial expectation


def _against(expected: Mapping[str, Any], result: ExecutionResult, ignore: Collection[str]) -> Iterator[Difference]:
    comparison = _Comparison(ignore, partial=True)
    _refuse_unknown(expected, RESULT_FIELDS, "a result")
    for name, wanted in expected.items():
        if name in ("steps", "execution_log"):
            yield from _against_steps(wanted, result, name, comparison)
        else:
            actual = result.final_output if name == "output" else getattr(result, name)
            yield from comparison.of(wanted, actual, (name,))


def _against_steps(wanted: Any, result: ExecutionResult, name: str, comparison: _Comparison) -> Iterator[Difference]:
    records = {_name_of(record): record for record in result.execution_log}
    if isinstance(wanted, Mapping):
        pairs = [(fields, str(step_id)) for step_id, fields in wanted.items()]
    elif isinstance(wanted, (list, tuple)):
        if len(wanted) != len(records):
            yield Difference(("number of steps",), len(wanted), len(records))
        pairs = list(zip(wanted, records, strict=False))
    else:
        raise ValueError(f"'{name}' has to be a mapping of step ids to fields, or a list, not {shown(wanted)}.")
    for fields, step_id in pairs:
        if not comparison.ignores(("steps", step_id)):
            yield from _against_record(fields, records.get(step_id), ("steps", step_id), comparison)


def _against_record(
    fields: Any, record: StepRecord | None, path: Path, comparison: _Comparison
) -> Iterator[Difference]:
    if record is None:
        yield Difference(path, fields, MISSING)
        return
    if isinstance(fields, str):  # the status alone
        fields = {"status": fields}
    _refuse_unknown(fields, RECORD_FIELDS, "a record")
    for name, wanted in fields.items():
        if name == "sub_result" and isinstance(wanted, Mapping) and record.sub_result is not None:
            inside = _against(wanted, record.sub_result, ())
            found = (inner._replace(path=(*path, name, *inner.path)) for inner in inside)
            yield from (one for one in found if not comparison.ignores(one.path))
        else:
            yield from comparison.of(wanted, getattr(record, name), (*path, name))


def _name_of(record: StepRecord) -> str:
    """The id of a step; for the borders of a flow, which have none, what stands there."""
    if record.step_id is not None:
        return record.step_id
    return "flow input" if record.step_index < 0 else "flow output"


def _refuse_unknown(expected: Any, known: Collection[str], what: str) -> None:
    if not isinstance(expected, Mapping):
        raise ValueError(f"What is expected of {what} has to be a mapping of field names, not {shown(expected)}.")
    for name in expected:
        if name not in known:
            near = suggest(str(name), known)
            hint = "" if near is None else f"; did you mean '{near}'?"
            raise ValueError(f"'{name}' is no field of {what}{hint}")


# ---- values


class _Comparison:
    """One comparison of two values, however often they hold themselves.

    Attributes:
        partial: The first value is what somebody wrote down, and need not say everything.
    """

    def __init__(self, ignore: Collection[str], *, partial: bool) -> None:
        if isinstance(ignore, str):
            raise ValueError(f"ignore has to be a list of paths, not the text {ignore!r}.")
        self.partial = partial
        self._ignored = [tuple(path.split(".")) for path in ignore]
        self._inside: set[tuple[int, int]] = set()

    def ignores(self, path: Path) -> bool:
        """Whether a place does not count."""
        return any(
            len(pattern) == len(path) and all(one in ("*", part) for one, part in zip(pattern, path, strict=True))
            for pattern in self._ignored
        )

    def of(self, expected: Any, actual: Any, path: Path) -> Iterator[Difference]:
        """Where the values differ, in the order of the expected one."""
        pair = (id(expected), id(actual))
        if expected is actual or pair in self._inside or self.ignores(path):
            return
        self._inside.add(pair)
        try:
            yield from self._of(expected, actual, path)
        finally:
            self._inside.discard(pair)

    def _of(self, expected: Any, actual: Any, path: Path) -> Iterator[Difference]:
        if expected is MISSING or actual is MISSING:
            yield Difference(path, expected, actual)
        elif isinstance(expected, Mapping) and isinstance(actual, Mapping):
            yield from self._of_mappings(expected, actual, path)
        elif isinstance(expected, (list, tuple)) and isinstance(actual, (list, tuple)):
            yield from self._of_lists(expected, actual, path)
        elif self.partial:
            if not _meets(expected, actual):
                yield Difference(path, expected, actual)
        elif type(expected) is not type(actual):
            yield Difference(path, expected, actual)
        elif _has_fields(expected):
            yield from self._of_mappings(vars(expected), vars(actual), path)
        elif not _same(expected, actual):
            yield Difference(path, expected, actual)

    def _of_mappings(self, expected: Mapping[Any, Any], actual: Mapping[Any, Any], path: Path) -> Iterator[Difference]:
        for key, wanted in expected.items():
            yield from self.of(wanted, actual.get(key, MISSING), (*path, str(key)))
        if self.partial:
            return
        for key, extra in actual.items():
            if key not in expected and not self.ignores((*path, str(key))):
                yield Difference((*path, str(key)), MISSING, extra)

    def _of_lists(self, expected: Sequence[Any], actual: Sequence[Any], path: Path) -> Iterator[Difference]:
        if not self.partial and type(expected) is not type(actual):
            yield Difference(path, expected, actual)
            return
        if len(expected) != len(actual):
            yield Difference((*path, "length"), len(expected), len(actual))
        for at, (wanted, found) in enumerate(zip(expected, actual, strict=False)):
            yield from self.of(wanted, found, (*path, str(at)))


def _has_fields(value: object) -> bool:
    """Whether a value is known by its fields: a model, a dataclass, or an object that is equal to itself only."""
    if not getattr(value, "__dict__", None) or isinstance(value, type) or callable(value):
        return False
    return isinstance(value, BaseModel) or is_dataclass(value) or _is_opaque(value)


def _is_opaque(value: object) -> bool:
    """Whether an object is equal to itself only."""
    equals: object = type(value).__eq__
    return equals is object.__eq__


def _meets(expected: Any, actual: Any) -> bool:
    """Whether a value is what a test wrote down: equal, an instance of that class, or a text that fits that pattern."""
    if isinstance(expected, type) and not isinstance(actual, type):
        return isinstance(actual, expected)
    if isinstance(expected, re.Pattern):
        return isinstance(actual, str) and expected.search(actual) is not None
    return are_equal(expected, actual)


def _same(expected: Any, actual: Any) -> bool:
    """Whether two values of two runs, of one type, are the same; NaN is itself."""
    if isinstance(expected, float) and expected != expected:
        return bool(actual != actual)
    if _is_opaque(expected):
        # Nothing tells such objects apart but their identity, which is another one in every run.
        return repr_without_address(expected) == repr_without_address(actual)
    return are_equal(expected, actual)


def repr_without_address(value: Any) -> str:
    """The `repr` of an object without the number that says where it lives."""
    return ADDRESS.sub("", shown(value))


# ---- words


def _wanted(expected: Any) -> str:
    if isinstance(expected, type):
        return f"an instance of {expected.__qualname__}"
    if isinstance(expected, re.Pattern):
        return f"a text with {expected.pattern!r}"
    return shown(expected)


def _report(result: ExecutionResult, found: list[Difference]) -> Iterator[str]:
    count = "1 place" if len(found) == 1 else f"{len(found)} places"
    yield f"Result of flow '{result.flow_name}' {result.flow_version} differs in {count}:"
    for one in found[:MOST]:
        yield f"  {one}{_known(result, one)}"
    if len(found) > MOST:
        yield f"  ... and {len(found) - MOST} more"
    failed = next((record for record in result.execution_log if record.status == "failed"), None)
    if failed is not None:
        first = (failed.error_message or failed.error_type or "").split("\n", 1)[0]
        yield f"  the run failed at step '{_name_of(failed)}': {first}"


def _known(result: ExecutionResult, one: Difference) -> str:
    """Which steps there are, where one is missing."""
    if one.actual is not MISSING or one.path[:1] != ("steps",) or len(one.path) != 2:
        return ""
    return f"; there are records of: {', '.join(map(_name_of, result.execution_log)) or 'no step'}"
