"""Flows of every construct on the command line: sub-flows that are found, questions that are answered, how runs end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from chainweaver import ExecutionResult
from tests.cli.conftest import Call

ROWS = ("--input", '{"rows": [1, 2, 13]}')
PAYS = ("--approve", "card", "--decide", "pay=card")


def without_times(text: str) -> str:
    return re.sub(r" *\d+(\.\d+)? ((ms|s)\b|%)", " T", text)


# ---- run


def test_a_run_shows_branches_decisions_items_and_sub_flows(call: Call, shop: Path):
    """CLI: steps of sub-flows are indented, items of maps are counted, what was decided is noted."""
    called = call("run", "shop", *ROWS, *PAYS)
    assert (called.status, called.err) == (0, "")
    assert without_times(called.out).splitlines()[:9] == [
        "shop 1.0.0, 6 steps, 7 tools from shop.py",
        "1/6  total (total)  ok T  to standard",
        "2/6  standard (standard)  ok T",
        "3/6  pay (card)  ok T  chose card, approved by command line",
        "4/6  parcels (parcel)  ok T  3 items, 1 failed",
        "       parcel 1.0.0:",
        "       weigh  ok T",
        "       label  ok T",
        "5/6  gift (parcel)  ok T",
    ]
    assert any(line.startswith("express") and line.endswith("no branch led to it") for line in called.out.splitlines())


def test_json_has_what_was_decided_and_who_agreed(call: Call, shop: Path):
    """CLI: for programs, per step."""
    steps = call("run", "shop", *ROWS, *PAYS, "--format", "json").answer["data"]["steps"]
    assert steps[0]["decision"] == {"taken": "standard"}
    assert steps[3]["decision"]["chosen"] == "card"
    assert steps[3]["approval"] == {"approved": True, "approver": "command line", "reason": None}


def test_what_was_not_approved_is_denied_with_the_option_that_would_help(call: Call, shop: Path):
    """R26: nobody is asked while a run goes on."""
    called = call("run", "shop", *ROWS, "--decide", "pay=card")
    assert called.status == 1
    assert called.err.splitlines() == [
        "chainweaver: [CW-E029] Approval of tool 'card' at step 3 was denied: it is not approved.",
        "  where   flow 'shop' 1.0.0, step 'pay' (shop.flow.yaml:13)",
        "  fix     --approve card",
    ]
    assert call("run", "shop", *ROWS, "--decide", "pay=card", "--approve", "all").status == 0


def test_what_was_not_decided_fails_with_the_option_that_would_help(call: Call, shop: Path):
    """R26: a step that decides needs a word beforehand."""
    called = call("run", "shop", *ROWS)
    assert called.status == 1
    assert called.err.splitlines() == [
        "chainweaver: [CW-E031] Decision at step 3 ('pay') failed: nobody has chosen among card, wire.",
        "  where   flow 'shop' 1.0.0, step 'pay' (shop.flow.yaml:13)",
        "  fix     --decide pay=card",
    ]
    assert call("run", "shop", *ROWS, "--decide", "pay=wire").status == 0


@pytest.mark.parametrize(
    ("args", "lines"),
    [
        (
            ("--approve", "crd"),
            [
                "--approve 'crd' is no tool that requires an approval.",
                "  known   card",
                "  fix     did you mean 'card'?",
            ],
        ),
        (("--approve", "wire"), ["--approve 'wire' is no tool that requires an approval.", "  known   card"]),
        (("--decide", "pay"), ["--decide 'pay' is not of the form STEP=TOOL."]),
        (("--decide", "=card"), ["--decide '=card' is not of the form STEP=TOOL."]),
        (("--decide", "total=card"), ["--decide 'total' is no step that decides.", "  known   pay"]),
        (
            ("--decide", "pay=cash"),
            ["--decide 'pay=cash' names no candidate of step 'pay'.", "  known   card, wire"],
        ),
        (("--dry-run-unsupported", "abort"), ["--dry-run-unsupported means nothing without --dry-run."]),
        (("--deadline", "0"), ["--deadline 0 is no time to run in.", "  fix     give seconds, such as --deadline 30"]),
        (
            ("--deadline", "nan"),
            ["--deadline nan is no time to run in.", "  fix     give seconds, such as --deadline 30"],
        ),
        (("--trace", "."), ["Trace cannot be written to '.': it is a directory."]),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_runs(
    call: Call, shop: Path, args: tuple[str, ...], lines: list[str]
):
    """CLI: exit status 2, and nothing was started."""
    called = call("run", "shop", *ROWS, *args)
    assert (called.status, called.out) == (2, "")
    lines[0] = f"chainweaver: [CW-E106] {lines[0]}"
    assert called.err.splitlines()[: len(lines)] == lines


def test_a_directory_for_the_trace_that_is_not_there_ends_with_2(call: Call, shop: Path):
    """CLI: said before the run has done its work for nothing."""
    called = call("run", "shop", *ROWS, "--trace", "no/where.json")
    assert (called.status, called.out) == (2, "")
    assert "Trace cannot be written to 'no/where.json': there is no directory 'no'." in called.err


def test_a_dry_run_calls_what_stands_in_for_the_tools(call: Call, shop: Path):
    """CLI: what cannot be rehearsed is skipped, or ends the run; nobody has to approve."""
    (shop / "pay.flow.yaml").write_text(
        "{type: Flow, name: pay, version: 1.0.0, description: '', steps: [{tool_name: card}, {tool_name: wire}]}",
        encoding="utf-8",
    )
    options = ("pay", "--tools", "shop.py", "--input", '{"total": 5}', "--dry-run")
    called = call("run", *options)
    assert (called.status, called.err) == (0, "")
    lines = without_times(called.out).splitlines()
    assert lines[0] == "pay 1.0.0, 2 steps, 7 tools from shop.py, dry run"
    assert lines[1] == "1/2  card  ok T"
    assert lines[2].startswith("2/2  wire  skipped")
    assert lines[-1] == "pay 1.0.0: ok (dry run), 2 steps in T"
    assert call("run", *options, "--format", "json").answer["data"]["dry_run"] is True

    aborted = call("run", *options, "--dry-run-unsupported", "abort")
    assert (aborted.status, "has no dry run" in aborted.err) == (1, True)
    assert call("run", *options[:-1]).status == 1


def test_a_deadline_ends_the_run(call: Call, project: Path):
    """R22: the error names the step that did not get to its end; exit status 1."""
    (project / "slow.py").write_text(
        "import time\nfrom chainweaver import tool\n@tool\ndef slow() -> int:\n    time.sleep(30)\n    return 1\n",
        encoding="utf-8",
    )
    (project / "slow.flow.yaml").write_text(
        "{type: Flow, name: slow, version: 1.0.0, description: '', steps: [{tool_name: slow}]}", encoding="utf-8"
    )
    called = call("run", "slow", "--deadline", "0.05")
    assert called.status == 1
    assert "[CW-E012] Flow 'slow' was cancelled at step 0: deadline exceeded." in called.err
    assert "slow 1.0.0: cancelled after 0 of 1 step" in called.out


@pytest.mark.parametrize("rows", ["[1]", "[13]"])
def test_the_trace_of_a_run_is_written_however_it_ends(call: Call, shop: Path, rows: str):
    """CLI: one file that reads back as the result."""
    called = call("run", "shop", "--input", f'{{"rows": {rows}}}', *PAYS, "--trace", "kept.json", "--format", "json")
    result = ExecutionResult.model_validate_json((shop / "kept.json").read_bytes())
    assert called.status == (1 if rows == "[13]" else 0)
    assert (result.trace_id, result.status) == (called.answer["data"]["run"], called.answer["data"]["status"])
    assert called.answer["data"]["trace"] == "kept.json"
    shown = call("run", "shop", "--input", f'{{"rows": {rows}}}', *PAYS, "--trace", "kept.json").out
    assert re.search(r"^trace of run [0-9a-f]{32} is written to kept.json$", shown, re.MULTILINE)


def test_a_step_that_fails_inside_is_named_with_the_steps_around_it(call: Call, shop: Path):
    """CLI: the innermost file and line first, then who called it."""
    called = call("run", "shop", "--input", '{"rows": [13]}', *PAYS)
    assert called.err.splitlines()[:2] == [
        "chainweaver: [CW-E006] Tool 'weigh' failed at step 0: ValueError: too heavy.",
        "  where   flow 'parcel' 1.0.0, step '0' (parcel.flow.yaml:7), called by step 'gift' (shop.flow.yaml:24)",
    ]

    text = (shop / "shop.flow.yaml").read_text().replace("collect", "fail")
    (shop / "shop.flow.yaml").write_text(text, encoding="utf-8")
    called = call("run", "shop", *ROWS, *PAYS)
    assert called.err.splitlines()[1] == (
        "  where   flow 'parcel' 1.0.0, step '0' (parcel.flow.yaml:7), "
        "called by step 'parcels', item 2 (shop.flow.yaml:18)"
    )


# ---- flows that flows name


def test_flows_are_found_in_the_directories_that_are_named(call: Call, shop: Path):
    """CLI: --flows DIR, at any depth; their tools come from the files beside them."""
    deeper = shop / "lib" / "more"
    deeper.mkdir(parents=True)
    (shop / "parcel.flow.yaml").rename(deeper / "post.flow.yaml")
    missing = call("run", "shop", *ROWS, *PAYS)
    assert missing.status == 2
    assert missing.err.splitlines() == [
        "chainweaver: [CW-E002] Flow 'parcel' is not registered.",
        "  where   flow 'shop' 1.0.0 calls it (shop.flow.yaml:18)",
        "  known   graph, shop, sums, typo",
        "  why     cannot be read: broken.flow.yaml",
        "  fix     put its file beside that of 'shop', or name its directory with --flows",
    ]
    assert call("run", "shop", *ROWS, *PAYS, "--flows", "lib").status == 0

    (deeper / "post.py").write_text(
        "from chainweaver import tool\n@tool\ndef extra() -> int:\n    return 1\n", encoding="utf-8"
    )
    assert call("run", "shop", *ROWS, *PAYS, "--flows", "lib").out.startswith(
        "shop 1.0.0, 6 steps, 7 tools from shop.py, 1 tool from lib/more/post.py\n"
    )
    absent = call("run", "shop", *ROWS, "--flows", "nix")
    assert (absent.status, "Directory 'nix' does not exist." in absent.err) == (2, True)


def test_a_version_that_no_file_has_is_named_with_those_there_are(call: Call, shop: Path):
    """R27: a pinned version is that version."""
    text = (
        (shop / "shop.flow.yaml")
        .read_text()
        .replace("    flow_name: parcel\n", "    flow_name: parcel\n    flow_version: 2.0.0\n")
    )
    (shop / "shop.flow.yaml").write_text(text, encoding="utf-8")
    called = call("run", "shop", *ROWS, *PAYS)
    assert called.status == 2
    assert "Flow 'parcel' version '2.0.0' is not registered." in called.err
    assert "  known   1.0.0" in called.err.splitlines()

    newer = (shop / "parcel.flow.yaml").read_text().replace("1.0.0", "2.0.0")
    (shop / "parcel2.flow.yaml").write_text(newer, encoding="utf-8")
    assert "parcel 2.0.0:" in call("run", "shop", *ROWS, *PAYS).out


def test_one_version_with_two_definitions_is_refused(call: Call, shop: Path):
    """CLI: which of them would run is not left to chance; two copies of one definition are one."""
    text = (shop / "parcel.flow.yaml").read_text()
    (shop / "again.flow.yaml").write_text(text, encoding="utf-8")
    assert call("run", "shop", *ROWS, *PAYS).status == 0
    (shop / "again.flow.yaml").write_text(text.replace("One parcel.", "Another one."), encoding="utf-8")
    called = call("run", "shop", *ROWS, *PAYS)
    assert called.status == 1
    assert "Flow 'parcel' 1.0.0 is defined twice: in 'again.flow.yaml' and in 'parcel.flow.yaml'." in called.err


def test_flows_that_nobody_names_are_not_read(call: Call, shop: Path):
    """CLI: a broken file beside a flow is nobody's business, unless a flow is looked for."""
    assert call("run", "sums", "--input", '{"rows": [1]}').status == 0
    assert call("run", "shop", *ROWS, *PAYS).status == 0


def test_flows_of_modules_are_found_as_well(call: Call, shop: Path):
    """CLI: written in Python, named in a file, and the other way round."""
    (shop / "more.py").write_text(
        "from chainweaver import Flow, FlowStep\n"
        "post = Flow(name='post', version='1.0.0', description='', steps=[FlowStep(tool_name='weigh')])\n"
        "outer = Flow(name='outer', version='1.0.0', description='', steps=[FlowStep(flow_name='post')])\n",
        encoding="utf-8",
    )
    called = call("run", "outer", "--tools", "shop.py", "--tools", "more.py", "--input", '{"n": 2}')
    assert (called.status, "weight  20" in called.out) == (0, True)


def test_checks_see_through_sub_flows(call: Call, shop: Path):
    """CLI: validate and check compile with the flows that are named; one that is missing is a finding."""
    sound = call("validate", "shop.flow.yaml", "--tools", "shop.py")
    assert (sound.status, sound.err) == (0, "")
    (shop / "lib").mkdir()
    (shop / "parcel.flow.yaml").rename(shop / "lib" / "parcel.flow.yaml")
    missing = call("validate", "shop.flow.yaml", "--tools", "shop.py")
    assert missing.status == 1
    assert "shop.flow.yaml:18: step 'parcels' (parcel), composition_unknown_flow: " in missing.err
    assert call("validate", "shop.flow.yaml", "--tools", "shop.py", "--flows", "lib").status == 0
    for name in ("broken.flow.yaml", "typo.flow.yaml", "sums.flow.yaml", "graph.flow.json"):
        (shop / name).unlink()
    assert call("check", ".", "--tools", "shop.py").status == 0

    text = (shop / "lib" / "parcel.flow.yaml").read_text().replace("tool_name: label", "tool_name: lable")
    (shop / "lib" / "parcel.flow.yaml").write_text(text, encoding="utf-8")
    wrong = call("check", ".", "--tools", "shop.py")
    assert wrong.status == 1
    assert (
        "shop.flow.yaml:18: step 'parcels' (parcel), missing_tool: step 'parcels': in sub-flow 'parcel': " in wrong.err
    )


# ---- explain


def test_explain_shows_what_may_happen_and_the_plans_of_sub_flows(call: Call, shop: Path):
    """CLI: ways out, decisions, maps, and what a sub-flow is given."""
    called = call("explain", "shop", *ROWS)
    assert (called.status, called.err) == (0, "")
    assert called.out.splitlines() == [
        "shop 1.0.0, 6 steps, nothing runs",
        "",
        "inputs",
        "step      input      comes from               written by",
        "total     rows       context['rows']          input",
        "express   total      context['total']         total",
        "standard  total      context['total']         total",
        "pay       total      context['total']         total",
        "parcels   each item  context['rows']          input",
        "          n          item of context['rows']  input",
        "gift      n          context['/rows/0']       input",
        "",
        "ways",
        "step      what may happen",
        "total     if total > 100: express",
        "          else: standard",
        "express   is passed over when no branch leads to it",
        "standard  is passed over when no branch leads to it",
        "pay       calls one of card, wire, which is decided in the run",
        "parcels   runs flow parcel 1.0.0",
        "          once per item; gives label: list",
        "gift      runs flow parcel 1.0.0",
        "",
        "inputs of parcel 1.0.0, run by parcels",
        "step     input   comes from         written by",
        "0 weigh  n       context['n']       input",
        "1 label  weight  context['weight']  0 weigh",
        "",
        "inputs of parcel 1.0.0, run by gift",
        "step     input   comes from         written by",
        "0 weigh  n       context['n']       input",
        "1 label  weight  context['weight']  0 weigh",
        "",
        "output",
        "key       type",
        "rows      list",
        "total     int",
        "express   str",
        "standard  str",
        "paid      int",
        "label     list",
        "gift      str",
    ]


def test_explain_finds_what_a_sub_flow_would_look_for_in_vain(call: Call, shop: Path):
    """CLI: the step inside, and the step that calls it."""
    text = (shop / "shop.flow.yaml").read_text().replace("{n: /rows/0}", "{m: /rows/0}")
    (shop / "shop.flow.yaml").write_text(text, encoding="utf-8")
    called = call("explain", "shop", *ROWS)
    assert called.status == 1
    assert called.err.splitlines()[:2] == [
        "chainweaver: [CW-E005] Input mapping of step 'weigh' reads unknown key 'n'.",
        "  where   parcel.flow.yaml:7, called at shop.flow.yaml:24",
    ]
    plan = call("explain", "shop", *ROWS, "--format", "json").answer["data"]
    assert plan["steps"][5]["sub_plan"]["steps"][0]["unresolved_keys"] == ["n"]


def test_explain_shows_branches_without_a_default_stand_ins_and_capabilities(call: Call, project: Path):
    """R24: where no predicate holds, all that depend on the step run."""
    (project / "odd.flow.yaml").write_text(
        "{type: DAGFlow, name: odd, version: 1.0.0, description: '', steps: ["
        "{step_id: a, tool_name: total, branches: [{target_step_id: b, predicate: total > 1}]},"
        "{step_id: b, tool_name: divide, depends_on: [a], on_error: 'fallback:total', output_mapping: {}},"
        "{step_id: c, step_type: capability, capability_id: ship.it, depends_on: [a]}]}",
        encoding="utf-8",
    )
    shown = call("explain", "odd", "--tools", "sums.py", "--input", '{"rows": [1]}').out.splitlines()
    assert "a     if total > 1: b" in shown
    assert "      else: b, c" in shown
    assert "      when it fails, total stands in" in shown
    assert "      is performed by capability ship.it" in shown


def test_a_flow_file_may_take_an_input_in_chunks(call: Call, project: Path):
    """R28: a chunked step runs from a file, and explain says how."""
    (project / "parts.flow.yaml").write_text(
        "{type: Flow, name: parts, version: 1.0.0, description: '', steps: ["
        "{tool_name: total, chunk: {input: rows, rows: 2, combine: sum}}]}",
        encoding="utf-8",
    )
    given = ("parts", "--tools", "sums.py", "--input", '{"rows": [1, 2, 3]}')

    assert "takes rows in chunks of 2 rows, combined by sum" in call("explain", *given).out
    assert call("run", *given, "--format", "json").answer["data"]["output"]["total"] == 6


def test_a_branching_flow_is_drawn_with_its_sub_flows(call: Call, shop: Path):
    """CLI: viz needs neither tools nor the flows that are named."""
    assert call("viz", "shop.flow.yaml").out.splitlines() == [
        "level 0  [total]",
        "             if total > 100 → [express]",
        "             else → [standard]",
        "level 1  [express] ← [total]",
        "         [standard] ← [total]",
        "level 2  [pay: card, one of card, wire] ← [express], [standard]",
        "level 3  [parcels: flow parcel, for each item in rows] ← [pay]",
        "         [gift: flow parcel] ← [pay]",
    ]


# ---- attest and fuzz


def test_attest_says_that_a_flow_gives_the_same_again(call: Call, shop: Path):
    """CLI: the attestation as text, as JSON and as a file."""
    options = ("parcel", "--tools", "shop.py", "--input", '{"n": 2}', "--input", '{"n": 13}')
    called = call("attest", *options, "--out", "kept.json")
    assert (called.status, called.err) == (0, "")
    assert called.out.startswith("parcel 1.0.0: deterministic\n")
    data = call("attest", *options, "--format", "json").answer["data"]
    assert (data["verdict"], data["input_count"], data["runs"]) == ("deterministic", 2, 16)
    assert json.loads((shop / "kept.json").read_text()) == data


@pytest.fixture
def parametrised(project: Path) -> None:
    """A flow that reads a dynamic parameter."""
    (project / "dyn.flow.yaml").write_text(
        "{type: Flow, name: dyn, version: 1.0.0, description: '', dynamic_params: [token],"
        " steps: [{tool_name: fetch}]}",
        encoding="utf-8",
    )
    (project / "dyn.py").write_text(
        "from chainweaver import tool\n@tool\ndef fetch(url: str, token: str) -> str:\n    return url + token\n",
        encoding="utf-8",
    )


@pytest.mark.usefixtures("parametrised")
def test_attest_and_fuzz_take_dynamic_parameters(call: Call):
    """R13: the same option as that of run."""
    attested = call("attest", "dyn", "--input", '{"url": "u"}', "--param", "token=t")
    assert (attested.status, attested.out.splitlines()[0]) == (0, "dyn 1.0.0: deterministic")
    fuzzed = call("fuzz", "dyn", "--examples", "5", "--param", "token=t", "--no-failures")
    assert (fuzzed.status, fuzzed.out) == (0, "dyn 1.0.0: nothing found in 5 inputs, 25 runs, seed 0\n")
    for command in ("attest", "fuzz"):
        refused = call(command, "dyn", "--param", "tokn=t")
        assert (refused.status, "  fix     did you mean 'token'?" in refused.err) == (2, True)


@pytest.mark.usefixtures("parametrised")
def test_attest_and_fuzz_say_that_every_run_failed(call: Call):
    """CLI: with the first error, and exit status 1."""
    failed = "Schema validation failed for tool 'fetch' at step 0 (input): token: Field required."
    attested = call("attest", "dyn", "--input", '{"url": "u"}')
    assert (attested.status, attested.out.splitlines()[0]) == (1, "dyn 1.0.0: deterministic, every run failed")
    assert f"failed      1 of 1 input, the first with: {failed}" in attested.out
    assert attested.err.splitlines()[0] == (
        f"chainweaver: [CW-E113] Flow 'dyn' 1.0.0: every run failed, the first with: {failed}"
    )
    fuzzed = call("fuzz", "dyn", "--examples", "5")
    assert (fuzzed.status, fuzzed.out.splitlines()[-1]) == (1, "dyn 1.0.0: 1 finding in 5 inputs, 25 runs, seed 0")
    assert fuzzed.err.splitlines()[0] == (
        f"chainweaver: [CW-E113] Flow 'dyn' 1.0.0: failure: every run failed, the first with: {failed}"
    )


def test_attest_names_the_first_difference(call: Call, shop: Path):
    """CLI: exit status 1, with the input, the run, the step and both values."""
    text = (shop / "shop.py").read_text().replace("n * RATE", "n * next(COUNT)")
    (shop / "shop.py").write_text(f"import itertools\nCOUNT = itertools.count(1)\n{text}", encoding="utf-8")
    called = call("attest", "parcel", "--tools", "shop.py", "--input", '{"n": 2}', "--limit", "1")
    assert (called.status, called.out.splitlines()[0]) == (1, "parcel 1.0.0: different")
    assert called.err.startswith(
        "chainweaver: [CW-E113] Flow 'parcel' 1.0.0 is not deterministic: "
        "input 0, run 2 on the sync lane at limit 1, compared with run 1"
    )
    assert "outputs.weight: expected 2, got 4" in called.err


def test_fuzz_finds_the_smallest_input_that_fails(call: Call, shop: Path):
    """CLI: findings on the screen, one message each, exit status 1."""
    text = (shop / "shop.py").read_text().replace("n == 13", "n >= 13")
    (shop / "shop.py").write_text(text, encoding="utf-8")
    options = ("parcel", "--tools", "shop.py", "--examples", "30", "--limit", "1")
    called = call("fuzz", *options, "--no-failures")
    assert called.status == 1
    assert called.out.splitlines()[:3] == [
        "failure  Tool 'weigh' failed at step 0: ValueError: too heavy.",
        "  with input  {'n': 13}",
        "  seen on     sync lane at limit 1",
    ]
    assert called.err.splitlines()[0] == (
        "chainweaver: [CW-E113] Flow 'parcel' 1.0.0: failure: Tool 'weigh' failed at step 0: ValueError: too heavy."
    )
    assert re.search(r"^parcel 1.0.0: 1 finding in 30 inputs, \d+ runs, seed 0$", called.out, re.MULTILINE)

    allowed = call("fuzz", *options, "--format", "json")
    assert (allowed.status, allowed.answer["data"]["findings"]) == (0, [])


def test_inputs_that_cannot_be_made_up_are_asked_for(call: Call, shop: Path):
    """CLI: the message says which step says too little, and what to do."""
    for command, fix in (("fuzz", "give the flow an input schema"), ("attest", "give inputs with --input")):
        called = call(command, "shop", "--decide", "pay=wire")
        assert called.status == 1
        assert called.err.startswith("chainweaver: [CW-E106] Step 'parcel' reads '/rows/0'")
        assert f"  fix     {fix}" in called.err.splitlines()


@pytest.mark.parametrize("command", ["attest", "fuzz"])
def test_flows_that_do_not_compile_are_not_tried(call: Call, command: str):
    """CLI: the compile errors are told instead."""
    called = call(command, "typo.flow.yaml", "--tools", "sums.py")
    assert (called.status, "missing_tool" in called.err, called.out) == (1, True, "")


@pytest.mark.parametrize("command", ["attest", "fuzz"])
def test_without_the_extra_for_testing_it_is_named(call: Call, command: str, monkeypatch: pytest.MonkeyPatch):
    """CLI: exit status 2 and how to install it."""
    import sys

    for name in [name for name in sys.modules if name.startswith(("hypothesis", "chainweaver.testing"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    called = call(command, "sums")
    assert (called.status, "pip install 'chainweaver[testing]'" in called.err) == (2, True)
