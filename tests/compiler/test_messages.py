"""What the compiler says, word for word: every finding with its place and its field, and how a step fails for it.

One flow for each finding. Whoever changes a text changes it here as well, and reads the whole of it once.
"""
# ruff: noqa: E501 - messages stand here as they are printed

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chainweaver import Native, RetryPolicy, SideEffectLevel, ToolSafetyContract, literal, ref, template
from chainweaver.compiler import CompilationResult
from tests.compiler.kit import a_chain, a_dag, a_tool, call, compiled, named, node, schema, sub
from tests.compiler.schemas import Exactly, More, Text

A, B, TEXT = a_tool("a", ["n"], ["a_out"]), a_tool("b", ["n"], ["b_out"]), a_tool("text", {"text": str}, {"t": str})
ROWS = a_tool("rows", {"rows": list[int]}, {"parts": dict[str, int]})
SENDS = a_tool("sends", ["n"], ["out"], safety=ToolSafetyContract(side_effects=SideEffectLevel.EXTERNAL))
ONCE = a_tool("once", ["n"], ["out"], safety=ToolSafetyContract(safe_to_retry=False))
ANY = a_tool("any", [], {"x": Any})
LIST = a_tool("list", {}, {"list": Native[list[int]]})
PAIR = a_tool("pair", {}, {"pair": tuple[int, str]})


def chain(*steps: Any, tools: Any = (A, B, TEXT), flows: Any = (), **options: Any) -> CompilationResult:
    return compiled(a_chain(*steps, **options), *tools, flows=flows)


def dag(*steps: Any, tools: Any = (A, B, TEXT), **options: Any) -> CompilationResult:
    return compiled(a_dag(*steps, **options), *tools)


def told(result: CompilationResult) -> str:
    """All that was found, and what the steps raise for it when a run reaches them."""
    lines = [f"error: {one} [{one.field_name}]" for one in result.errors]
    lines += [f"warning: {one} [{one.field_name}]" for one in result.warnings]
    for step in result.plan.steps:
        if step.fault is not None:
            error = step.fault()
            lines.append(f"raises: {type(error).__name__}: {error}")
    return "\n".join(lines)


def branching(*edges: tuple[str, str], **options: Any) -> CompilationResult:
    branches = [{"predicate": predicate, "target_step_id": target} for predicate, target in edges]
    steps = [
        node("s", A, branches=branches, **options),
        *(node(name, B, "s", output_mapping={name: "b_out"}) for name in ("one", "two")),
    ]
    return compiled(a_dag(*steps, input_schema_ref=schema(Exactly)), A, B)


CASES: dict[str, Callable[[], CompilationResult]] = {
    "tools that are not there": lambda: dag(
        node("s", "aa", on_error="fallback:bb", decision_candidates=["a", "texts"])
    ),
    "no tools at all": lambda: chain(call("a"), tools=()),
    "a field that is not there": lambda: chain(call(TEXT, {"txet": "n", "text": literal("x")})),
    "a field without a value": lambda: chain(call(A), call(TEXT), input_schema_ref=schema(Exactly)),
    "several at once": lambda: chain(
        call(TEXT, {"text": "n", "other": "n"}),
        tools=[a_tool("text", {"text": str, "other": str, "third": str})],
        input_schema_ref=schema(Exactly),
    ),
    "a key that is not there": lambda: chain(call(A, {"n": "m"}), input_schema_ref=schema(Exactly)),
    "a key in a template": lambda: chain(
        call(TEXT, {"text": template("${m} of ${n}")}), input_schema_ref=schema(Exactly)
    ),
    "a part that is not there": lambda: chain(call(PAIR), call(A, {"n": "/pair/2"}), tools=[PAIR, A]),
    "a part of what has none": lambda: chain(call(A), call(B, {"n": "/a_out/x"})),
    "a part of a list that is no place": lambda: chain(call(LIST), call(A, {"n": "/list/x"}), tools=[LIST, A]),
    "a part of a tuple that is no place": lambda: chain(call(PAIR), call(A, {"n": "/pair/x"}), tools=[PAIR, A]),
    "a mapping without meaning": lambda: chain(call(A, {"n": "/~2"})),
    "a default that does not fit": lambda: chain(call(A), call(TEXT, {"text": ref("/a_out", default=1)})),
    "types that do not fit": lambda: chain(
        call(TEXT, {"text": literal("x")}),
        call(A, {"n": "t"}),
        tools=[a_tool("text", {"text": str}, {"t": list[str]}), A],
    ),
    "a literal that does not fit": lambda: chain(call(A, {"n": literal("x")})),
    "a template that does not fit": lambda: chain(
        call(A), call(ROWS, {"rows": template("${a_out}!")}), tools=[A, ROWS]
    ),
    "a value that may be anything": lambda: chain(call(ANY), call(A, {"n": "x"}), tools=[ANY, A]),
    "an output that is not there": lambda: chain(call(A, output_mapping={"x": "a_uot", "y": "a_out"})),
    "an input contract": lambda: chain(call(A, {"n": "n"}, input_contract=schema(More))),
    "an input contract of another type": lambda: chain(call(A, {"n": literal(1)}, input_contract=schema(Text))),
    "an output contract": lambda: chain(
        call(a_tool("more", [], ["n"]), output_contract=schema(More)), tools=[a_tool("more", [], ["n"])]
    ),
    "an output contract of another type": lambda: chain(
        call(a_tool("n", [], ["n"]), output_contract=schema(Text)), tools=[a_tool("n", [], ["n"])]
    ),
    "a contract that is not there": lambda: chain(call(A, input_contract="tests.compiler.schemas:Nobody")),
    "an error that is not there": lambda: chain(
        call(A, retry=RetryPolicy(max_retries=1, retryable_errors=["tests.compiler.schemas:Nobody"]))
    ),
    "retries of what must not be called twice": lambda: chain(
        call(ONCE, retry=RetryPolicy(max_retries=2)), tools=[ONCE]
    ),
    "copies": lambda: chain(call(ROWS), call(ROWS, {"rows": "rows"}, output_mapping={}), tools=[ROWS]),
    "siblings": lambda: dag(node("one", A), node("two", A)),
    "siblings that perhaps meet": lambda: dag(node("one", A, on_error="skip"), node("two", A)),
    "keys that are written again": lambda: chain(
        call(A),
        call(B, output_mapping={"a_out": "b_out", "n": "b_out"}),
        input_schema_ref=schema(Exactly),
        on_context_collision="warn",
    ),
    "keys that nobody could read": lambda: chain(
        call(A),
        call(B, {"n": "n"}, output_mapping={"a_out": "b_out"}),
        call(A, output_mapping={"p": "a_out"}),
        dynamic_params=("p",),
        on_context_collision="overwrite",
    ),
    "outputs that nobody reads": lambda: chain(
        call(A), call(SENDS), call(B, {"n": "n"}), tools=[A, B, SENDS], outputs=("b_out",)
    ),
    "outputs of the flow": lambda: chain(call(A), outputs=("a_uot",), input_schema_ref=schema(Exactly)),
    "schemas at the end": lambda: chain(
        call(A), input_schema_ref=schema(Exactly), output_schema_ref=schema(More), context_schema_ref=schema(Text)
    ),
    "a schema of what is left": lambda: chain(call(A), outputs=("a_out",), output_schema_ref=schema(Exactly)),
    "a schema that is not there": lambda: chain(call(A), input_schema_ref="tests.compiler.schemas:Nobody"),
    "a step that waits without saying so": lambda: dag(
        node("one", A),
        node("two", B),
        node("three", B, "two", input_mapping={"n": "a_out"}, output_mapping={"c": "b_out"}),
    ),
    "a predicate without meaning": lambda: branching(("a_out >", "one")),
    "a predicate of a key that is not there": lambda: branching(("a_uot > 1", "one")),
    "a step that no branch leads to": lambda: branching(("a_out > 1", "one"), default_next="one"),
    "no list": lambda: dag(node("s", A, map_over="n", map_as="n"), input_schema_ref=schema(Exactly)),
    "a list that is not there": lambda: dag(node("s", A, map_over="ns", map_as="n"), input_schema_ref=schema(Exactly)),
    "a list without meaning": lambda: dag(node("s", A, map_over="/~2", map_as="n")),
    "a flow that is not there": lambda: chain(sub("innner"), flows=[named("inner", a_chain(call(A)))]),
    "a flow that calls itself": lambda: chain(
        sub("inner"), flows=[named("inner", a_chain(sub("f"))), a_chain(sub("inner"))]
    ),
    "findings of a sub-flow": lambda: chain(
        sub("inner"),
        tools=[ANY, A],
        flows=[named("inner", a_chain(call(ANY), call(A, {"n": "x"}), call(A, {"m": "n", "n": "n"})))],
    ),
}


MESSAGES = {
    "tools that are not there": """
error: step 0 (aa): missing_tool: step 's': tool 'aa' is not registered; did you mean 'a'? registered tools are a, b, text [None]
error: step 0 (aa): missing_fallback_tool: step 's': tool 'bb' is not registered; did you mean 'b'? registered tools are a, b, text [None]
error: step 0 (aa): missing_candidate_tool: step 's': tool 'texts' is not registered; did you mean 'text'? registered tools are a, b, text [None]
raises: ToolNotFoundError: Tool 'aa' is not registered.
  known   a, b, text
  fix     did you mean 'a'?""",
    "no tools at all": """
error: step 0 (a): missing_tool: tool 'a' is not registered; registered tools are none [None]
raises: ToolNotFoundError: Tool 'a' is not registered.""",
    "a field that is not there": """
error: step 0 (text): unknown_target_key: tool 'text' has no input field 'txet'; did you mean 'text'? its fields are text [txet]
raises: SchemaValidationError: Schema validation failed for tool 'text' at step 0 (input): tool 'text' has no input field 'txet'; did you mean 'text'? its fields are text.""",
    "a field without a value": """
error: step 1 (text): missing_required_input: required field 'text' of tool 'text' gets no value; feed it in input_mapping, or let an earlier step or the flow's input provide it; known keys are n, a_out [text]
raises: SchemaValidationError: Schema validation failed for tool 'text' at step 1 (input): required field 'text' of tool 'text' gets no value; feed it in input_mapping, or let an earlier step or the flow's input provide it; known keys are n, a_out.""",
    "several at once": """
error: step 0 (text): type_mismatch: field 'text' of tool 'text' takes str, but key 'n' gives int; map another key, or convert it in a step before [text]
error: step 0 (text): type_mismatch: field 'other' of tool 'text' takes str, but key 'n' gives int; map another key, or convert it in a step before [other]
error: step 0 (text): missing_required_input: required field 'third' of tool 'text' gets no value; feed it in input_mapping, or let an earlier step or the flow's input provide it; known keys are n [third]
raises: SchemaValidationError: Schema validation failed for tool 'text' at step 0 (input): field 'text' of tool 'text' takes str, but key 'n' gives int; map another key, or convert it in a step before.""",
    "a key that is not there": """
error: step 0 (a): missing_mapping_key: field 'n' of tool 'a' reads unknown key 'm'; known keys are n [n]
raises: InputMappingError: Input mapping of step 'a' reads unknown key 'm'.
  known   n""",
    "a key in a template": """
error: step 0 (text): missing_mapping_key: field 'text' of tool 'text' reads unknown key 'm'; known keys are n [text]
raises: InputMappingError: Input mapping of step 'text' reads unknown key 'm'.
  known   n""",
    "a part that is not there": """
error: step 1 (a): missing_mapping_key: field 'n' of tool 'a' reads unknown key '/pair/2': there is no '2'; the names there are none [n]""",
    "a part of what has none": """
error: step 1 (b): missing_mapping_key: field 'n' of tool 'b' reads unknown key '/a_out/x': there is no 'x'; the names there are none [n]""",
    "a part of a list that is no place": """
error: step 1 (a): missing_mapping_key: field 'n' of tool 'a' reads unknown key '/list/x': there is no 'x'; the names there are none [n]""",
    "a part of a tuple that is no place": """
error: step 1 (a): missing_mapping_key: field 'n' of tool 'a' reads unknown key '/pair/x': there is no 'x'; the names there are none [n]""",
    "a mapping without meaning": """
error: step 0 (a): mapping_syntax: field 'n': Mapping value '/~2' is not valid at column 2: '~' in a pointer is written '~0', and '/' in a key '~1'. [n]
raises: FlowExecutionError: Tool 'a' failed at step 0: field 'n': Mapping value '/~2' is not valid at column 2: '~' in a pointer is written '~0', and '/' in a key '~1'.""",
    "a default that does not fit": """
error: step 1 (text): type_mismatch: field 'text' of tool 'text' takes str, but key '/a_out' gives int | Literal[1]; map another key, or convert it in a step before [text]
raises: SchemaValidationError: Schema validation failed for tool 'text' at step 1 (input): field 'text' of tool 'text' takes str, but key '/a_out' gives int | Literal[1]; map another key, or convert it in a step before.""",
    "types that do not fit": """
error: step 1 (a): type_mismatch: field 'n' of tool 'a' takes int, but key 't' gives list[str]; map another key, or convert it in a step before [n]
warning: step 0 (text): native_copy: output 't' of tool 'text' is list[str], so validation copies it item by item; Native[list[str]] passes the object itself [t]
raises: SchemaValidationError: Schema validation failed for tool 'a' at step 1 (input): field 'n' of tool 'a' takes int, but key 't' gives list[str]; map another key, or convert it in a step before.""",
    "a literal that does not fit": """
error: step 0 (a): type_mismatch: field 'n' of tool 'a' takes int, but the literal gives Literal['x']; map another key, or convert it in a step before [n]
raises: SchemaValidationError: Schema validation failed for tool 'a' at step 0 (input): field 'n' of tool 'a' takes int, but the literal gives Literal['x']; map another key, or convert it in a step before.""",
    "a template that does not fit": """
error: step 1 (rows): type_mismatch: field 'rows' of tool 'rows' takes list[int], but the template '${a_out}!' gives str; map another key, or convert it in a step before [rows]
warning: step 1 (rows): native_copy: input 'rows' of tool 'rows' is list[int], so validation copies it item by item; Native[list[int]] passes the object itself [rows]
warning: step 1 (rows): native_copy: output 'parts' of tool 'rows' is dict[str, int], so validation copies it item by item; Native[dict[str, int]] passes the object itself [parts]
raises: SchemaValidationError: Schema validation failed for tool 'rows' at step 1 (input): field 'rows' of tool 'rows' takes list[int], but the template '${a_out}!' gives str; map another key, or convert it in a step before.""",
    "a value that may be anything": """
warning: step 1 (a): implicit_any: field 'n' of tool 'a' takes int, and key 'x' is declared as Any, so that nothing is checked before the run; give the output a type [n]""",
    "an output that is not there": """
error: step 0 (a): unknown_output_key: output_mapping of 'x' takes unknown output key 'a_uot' of tool 'a'; did you mean 'a_out'? its outputs are a_out [x]
raises: OutputMappingError: Output mapping of step 'a' takes unknown output key 'a_uot'.
  known   a_out
  fix     did you mean 'a_out'?""",
    "an input contract": """
error: step 0 (a): missing_required_input: input contract More needs 'missing', which the step does not feed; it feeds n; change the contract or what it is held against [missing]
raises: SchemaValidationError: Schema validation failed for tool 'a' at step 0 (input contract): input contract More needs 'missing', which the step does not feed; it feeds n.""",
    "an input contract of another type": """
error: step 0 (a): type_mismatch: input contract Text takes list[int] as 'n', the step feeds Literal[1]; change the contract or what it is held against [n]
raises: SchemaValidationError: Schema validation failed for tool 'a' at step 0 (input contract): input contract Text takes list[int] as 'n', the step feeds Literal[1].""",
    "an output contract": """
error: step 0 (more): output_schema_gap: output contract More needs 'missing', which tool 'more' does not return; it returns n; change the contract or what it is held against [missing]
raises: SchemaValidationError: Schema validation failed for tool 'more' at step 0 (output contract): output contract More needs 'missing', which tool 'more' does not return; it returns n.""",
    "an output contract of another type": """
error: step 0 (n): output_type_mismatch: output contract Text takes list[int] as 'n', tool 'n' returns int; change the contract or what it is held against [n]
raises: SchemaValidationError: Schema validation failed for tool 'n' at step 0 (output contract): output contract Text takes list[int] as 'n', tool 'n' returns int.""",
    "a contract that is not there": """
error: step 0 (a): unresolvable_schema_ref: Class reference 'tests.compiler.schemas:Nobody' is refused: 'tests.compiler.schemas' has no attribute 'Nobody'. [input_contract]
raises: SchemaRefPolicyError: Class reference 'tests.compiler.schemas:Nobody' is refused: 'tests.compiler.schemas' has no attribute 'Nobody'.""",
    "an error that is not there": """
error: step 0 (a): unknown_retryable_error: Class reference 'tests.compiler.schemas:Nobody' is refused: 'tests.compiler.schemas' has no attribute 'Nobody'. [retry]
raises: SchemaRefPolicyError: Class reference 'tests.compiler.schemas:Nobody' is refused: 'tests.compiler.schemas' has no attribute 'Nobody'.""",
    "retries of what must not be called twice": """
warning: step 0 (once): unsafe_retry: tool 'once' declares that it is not safe to retry, and the step retries it 2 times; remove the retry policy, or make the tool idempotent and declare it [None]""",
    "copies": """
warning: step 0 (rows): native_copy: input 'rows' of tool 'rows' is list[int], so validation copies it item by item; Native[list[int]] passes the object itself [rows]
warning: step 0 (rows): native_copy: output 'parts' of tool 'rows' is dict[str, int], so validation copies it item by item; Native[dict[str, int]] passes the object itself [parts]""",
    "siblings": """
error: step 1 (a): sibling_conflict: step 'two': Key 'a_out' produced by both 'one' and its sibling 'two'; rename one of them with output_mapping, or let one step depend on the other [a_out]
raises: FlowExecutionError: Tool 'a' failed at step 1: Key 'a_out' produced by both 'one' and its sibling 'two'.
  fix     rename one of them with output_mapping, or let one step depend on the other""",
    "siblings that perhaps meet": """
error: step 1 (a): sibling_conflict: step 'two': Key 'a_out' produced by both 'one' and its sibling 'two'; rename one of them with output_mapping, or let one step depend on the other [a_out]""",
    "keys that are written again": """
warning: step 1 (b): context_collision: it overwrites key 'a_out' of step 0 ('a'); rename that with output_mapping, or set on_context_collision to 'overwrite' [a_out]
warning: step 1 (b): context_collision: it overwrites key 'n' of the initial input; rename that with output_mapping, or set on_context_collision to 'overwrite' [n]
warning: step 1 (b): shadowed_key: key 'a_out' of step 'a' is overwritten before anything reads it; rename one with output_mapping [a_out]""",
    "keys that nobody could read": """
warning: step 1 (b): shadowed_key: key 'a_out' of step 'a' is overwritten before anything reads it; rename one with output_mapping [a_out]
warning: step 2 (a): shadowed_key: key 'p' is hidden by the dynamic parameter of that name; rename it with output_mapping [p]""",
    "outputs that nobody reads": """
warning: step 0 (a): unused_output: nothing reads 'a_out'; remove the step, or name a key of it in outputs [a_out]""",
    "outputs of the flow": """
error: step 1 (f): unknown_output_key: outputs names unknown key 'a_uot'; did you mean 'a_out'? known keys are n, a_out [a_uot]
warning: step 0 (a): unused_output: nothing reads 'a_out'; remove the step, or name a key of it in outputs [a_out]""",
    "schemas at the end": """
error: step 1 (f): output_type_mismatch: context schema Text takes list[int] as 'n', the flow ends with int; change the schema, or convert the value in a step [n]
error: step 1 (f): output_schema_gap: output schema More needs 'missing', which nothing provides; the keys at the end are n, a_out [missing]""",
    "a schema of what is left": """
error: step 1 (f): output_schema_gap: output schema Exactly needs 'n', which nothing provides; the keys at the end are a_out [n]""",
    "a schema that is not there": """
error: step -1 (f): unresolvable_schema_ref: Class reference 'tests.compiler.schemas:Nobody' is refused: 'tests.compiler.schemas' has no attribute 'Nobody'. [input_schema_ref]""",
    "a step that waits without saying so": """
warning: step 2 (b): implicit_dependency: step 'three': it reads what step 'one' may write, so it waits for it; say so with depends_on=['one'] [None]""",
    "a predicate without meaning": """
error: step 0 (a): predicate_syntax: step 's': the branch to 'one': Predicate 'a_out >' is not valid: a value is expected, not the end (column 8). [branches]
raises: PredicateSyntaxError: Predicate 'a_out >' is not valid: a value is expected, not the end (column 8).""",
    "a predicate of a key that is not there": """
error: step 0 (a): missing_predicate_key: step 's': predicate 'a_uot > 1' of the branch to 'one' reads unknown key 'a_uot'; did you mean 'a_out'? known keys are a_out, n [branches]
raises: FlowExecutionError: Tool 'a' failed at step 0: predicate 'a_uot > 1' of the branch to 'one' reads unknown key 'a_uot'; did you mean 'a_out'? known keys are a_out, n.""",
    "a step that no branch leads to": """
warning: step 2 (b): unreachable_step: step 'two': no branch of 's' leads here; name the step in a branch or in default_next [None]""",
    "no list": """
error: step 0 (a): type_mismatch: step 's': it maps over 'n', which is no list; name a context key that holds one [map_over]""",
    "a list that is not there": """
error: step 0 (a): missing_mapping_key: step 's': it maps over unknown key 'ns'; did you mean 'n'? known keys are n [map_over]
raises: InputMappingError: Input mapping of step 's' reads unknown key 'ns'.
  known   n
  fix     did you mean 'n'?""",
    "a list without meaning": """
error: step 0 (a): mapping_syntax: step 's': map_over: Mapping value '/~2' is not valid at column 2: '~' in a pointer is written '~0', and '/' in a key '~1'. [map_over]
raises: FlowExecutionError: Tool 'a' failed at step 0: map_over: Mapping value '/~2' is not valid at column 2: '~' in a pointer is written '~0', and '/' in a key '~1'.""",
    "a flow that is not there": """
error: step 0 (innner): composition_unknown_flow: sub-flow 'innner' cannot be composed (unknown_flow): 'f' calls 'innner', which is not registered; did you mean 'inner'? [flow_name]""",
    "a flow that calls itself": """
error: step 0 (inner): composition_cycle: in sub-flow 'inner': step 0 (f): sub-flow 'f' cannot be composed (cycle): 'f' -> 'inner' -> 'f'; take one of these steps out [flow_name]""",
    "findings of a sub-flow": """
error: step 0 (inner): unknown_target_key: in sub-flow 'inner': step 2 (a): tool 'a' has no input field 'm'; its fields are n [m]
warning: step 0 (inner): implicit_any: in sub-flow 'inner': step 1 (a): field 'n' of tool 'a' takes int, and key 'x' is declared as Any, so that nothing is checked before the run; give the output a type [n]
warning: step 0 (inner): context_collision: in sub-flow 'inner': step 2 (a): it overwrites key 'a_out' of step 1 ('a'); rename that with output_mapping, or set on_context_collision to 'overwrite' [a_out]
warning: step 0 (inner): shadowed_key: in sub-flow 'inner': step 2 (a): key 'a_out' of step 'a' is overwritten before anything reads it; rename one with output_mapping [a_out]""",
}


@pytest.mark.parametrize("case", CASES)
def test_a_finding_says_where_what_is_wrong_and_what_to_do(case: str):
    """W11, R16: composed from facts, in the same words every time; a run that reaches the step says the same."""
    assert told(CASES[case]()) == MESSAGES[case].removeprefix("\n")
