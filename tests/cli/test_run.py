"""`chainweaver run`: which flow, which tools, what is shown, how it ends."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from chainweaver import FileCheckpointer, flow_from_yaml
from chainweaver.cli.run import rows_of
from tests.cli.conftest import Call

ROWS = ("--input", '{"rows": [1, 2]}')


def without_times(text: str) -> str:
    return re.sub(r" *\d+(\.\d+)? ((ms|s)\b|%)", " T", text)


def lines_of(text: str) -> list[str]:
    return without_times(text).splitlines()


def test_a_run_shows_what_was_loaded_every_step_the_times_and_the_outputs(call: Call):
    """CLI: plain lines in a pipe, in the order in which things happen, nothing coloured."""
    called = call("run", "sums.flow.yaml", *ROWS)

    assert (called.status, called.err) == (0, "")
    # Columns are as wide as the longest time in them.
    assert [re.sub("^(step .*)", lambda head: re.sub(" +", " ", head[0]), line) for line in lines_of(called.out)] == [
        "sums 1.0.0, 2 steps, 2 tools from sums.py",
        "1/2  total  ok T",
        "dividing",
        "2/2  divide  ok T",
        "",
        "time per step",
        "step tool status time share",
        "0     total   ok T T",
        "1     divide  ok T T",
        "",
        "rows    [1, 2]",
        "total   3",
        "divide  1.5",
        "",
        "sums 1.0.0: ok, 2 steps in T",
    ]


def test_a_list_of_small_rows_is_shown_as_a_table_and_the_rest_as_pairs(call: Call):
    """CLI: findings are read as a table, numbers flush right; paths stand below."""
    called = call("run", "graph.flow.json")

    lines = called.out.splitlines()
    at = lines.index("rows")
    assert lines[at + 1 : at + 4] == ["name   size", "row 0     0", "row 1     1"]
    assert "report  out/report.md" in lines


@pytest.mark.parametrize(
    ("value", "is_table"),
    [
        ([{"a": 1, "b": "x"}, {"a": 2, "b": None}], True),
        ([flow_from_yaml("{type: Flow, name: f, description: '', steps: []}")], False),
        ([{"a": 1}, {"b": 1}], False),
        ([{"a": [1]}], False),
        ([{1: 1}], False),
        ([{}], False),
        ([{str(n): n for n in range(9)}], False),
        ([1, 2], False),
        ([], False),
        ("text", False),
    ],
)
def test_only_lists_of_equal_plain_rows_are_tables(value, is_table: bool):
    """CLI: what would not fit into a table is not forced into one."""
    assert (rows_of(value) is not None) is is_table


def test_a_long_table_is_cut_and_says_so(call: Call):
    """CLI: a terminal is not flooded; JSON has everything."""
    called = call("run", "graph.flow.json", "--param", "limit=53")
    assert "... and 3 more rows" in called.out
    assert "row 49" in called.out
    assert "row 50" not in called.out

    answer = call("run", "graph.flow.json", "--param", "limit=53", "--format", "json").answer
    assert len(answer["data"]["output"]["rows"]) == 53


def test_json_is_one_document_whatever_the_tools_print(call: Call):
    """CLI: the envelope alone is on stdout, and what tools print is on stderr."""
    called = call("run", "sums.flow.yaml", *ROWS, "--format", "json")

    answer = called.answer
    assert called.err == "dividing\n"
    assert (called.status, answer["schema_version"], answer["status"], answer["errors"]) == (0, "1", "ok", [])
    data = answer["data"]
    assert (data["flow"], data["version"], data["status"]) == ("sums", "1.0.0", "ok")
    assert data["tools"] == {"sums.py": ["total", "divide"]}
    assert [(step["tool"], step["status"]) for step in data["steps"]] == [("total", "ok"), ("divide", "ok")]
    assert data["output"] == {"rows": [1, 2], "total": 3, "divide": 1.5}
    assert re.fullmatch("[0-9a-f]{32}", data["run"])


def test_a_failing_run_shows_the_error_with_its_place_and_no_traceback(call: Call):
    """CLI: code, sentence, file and line, what to do; exit status 1."""
    called = call("run", "sums.flow.yaml", "--input", '{"rows": [1], "by": 0}')

    assert called.status == 1
    assert called.err.splitlines() == [
        "chainweaver: [CW-E006] Tool 'divide' failed at step 1: ZeroDivisionError: division by zero.",
        "  where   flow 'sums' 1.0.0, step '1' (sums.flow.yaml:7)",
        "  fix     --traceback shows where in the tool it was raised",
    ]
    assert "2/2  divide  failed" in called.out
    assert "sums 1.0.0: failed after 1 of 2 steps" in called.out


def test_a_failing_run_in_json_has_its_steps_and_its_error(call: Call):
    """CLI: the same facts for programs, and stderr stays free of messages."""
    called = call("run", "sums.flow.yaml", "--input", '{"rows": [1], "by": 0}', "--format", "json")

    answer = called.answer
    assert (called.status, answer["status"], answer["data"]["status"]) == (1, "error", "failed")
    assert [error["code"] for error in answer["errors"]] == ["CW-E006"]
    assert answer["errors"][0]["message"].startswith("Tool 'divide' failed at step 1: ZeroDivisionError")
    assert called.err == "dividing\n"


def test_the_traceback_of_the_tool_is_shown_on_request(call: Call):
    """CLI: --traceback leads into the tool's own file."""
    called = call("run", "sums.flow.yaml", "--input", '{"rows": [1], "by": 0}', "--traceback")
    assert "sums.py" in called.err
    assert "return total / by" in called.err
    assert "--traceback shows" not in called.err


def test_a_flow_with_errors_is_not_started_and_all_of_them_are_told(call: Call):
    """CLI: every compile error with file and line; no step ran."""
    called = call("run", "typo.flow.yaml", "--tools", "sums.py")

    assert (called.status, called.out) == (1, "")
    first, *others = called.err.splitlines()
    assert first.startswith("chainweaver: [CW-E101] typo.flow.yaml:6: step '0' (totl), missing_tool: ")
    assert any("[CW-E101] typo.flow.yaml:7: step '1' (divide), unknown_target_key: " in line for line in others)


def test_a_name_stands_for_the_flow_file_of_that_name_here(call: Call):
    """CLI: run NAME finds NAME.flow.yaml."""
    assert call("run", "sums", *ROWS).out.startswith("sums 1.0.0, 2 steps, 2 tools from sums.py")


@pytest.mark.parametrize(("version", "tool"), [(None, "total"), ("1.0.0", "divide")])
def test_a_name_stands_for_a_flow_of_a_module(call: Call, version: str | None, tool: str):
    """CLI: flows written in Python run by name, the highest version unless one is asked for."""
    options = () if version is None else ("--version", version)
    given = json.dumps({"rows": [1], "total": 4})
    called = call("run", "inside", "--tools", "sums.py", *options, "--input", given, "--format", "json")
    assert [step["tool"] for step in called.answer["data"]["steps"]] == [tool]


def test_tools_of_a_dotted_module_are_found_from_here(call: Call, project: Path):
    """CLI: as with `python -m`, modules below the current directory have names."""
    (project / "pack").mkdir()
    (project / "pack" / "arithmetic.py").write_text((project / "sums.py").read_text(), encoding="utf-8")
    called = call("run", "sums.flow.yaml", "--tools", "pack.arithmetic", *ROWS)
    assert called.out.startswith("sums 1.0.0, 2 steps, 2 tools from pack.arithmetic")


def test_two_files_of_one_name_are_two_modules(call: Call, project: Path):
    """CLI: the second sums.py is not mistaken for the first."""
    assert call("run", "sums.flow.yaml", *ROWS).status == 0
    other = project / "other"
    other.mkdir()
    (other / "sums.flow.yaml").write_text((project / "sums.flow.yaml").read_text(), encoding="utf-8")
    (other / "sums.py").write_text(
        (project / "sums.py").read_text().replace("sum(rows)", "-sum(rows)"), encoding="utf-8"
    )
    assert "total   -3" in call("run", "other/sums.flow.yaml", *ROWS).out


def test_a_file_may_have_the_name_of_a_loaded_module(call: Call, project: Path):
    """CLI: json.py beside json.flow.yaml is that file, and the real json stays what it is."""
    for suffix in (".flow.yaml", ".py"):
        (project / f"json{suffix}").write_text((project / f"sums{suffix}").read_text(), encoding="utf-8")
    assert call("run", "json.flow.yaml", *ROWS).out.startswith("sums 1.0.0, 2 steps, 2 tools from json.py")


def test_one_tool_name_with_two_meanings_is_refused(call: Call, project: Path):
    """CLI: which of the two would run is not left to chance."""
    (project / "more.py").write_text((project / "sums.py").read_text(), encoding="utf-8")
    called = call("run", "sums.flow.yaml", "--tools", "sums.py", "--tools", "more.py")
    assert called.status == 1
    assert "Tool 'total' is defined twice: in 'sums.py' and in 'more.py'." in called.err


def test_a_tool_that_one_module_takes_from_another_is_one_tool(call: Call, project: Path):
    """CLI: `from sums import total` defines nothing."""
    (project / "more.py").write_text("from sums import total\n", encoding="utf-8")
    assert call("run", "sums.flow.yaml", "--tools", "sums.py", "--tools", "more.py", *ROWS).status == 0


@pytest.mark.parametrize(
    ("args", "sentence", "help_line"),
    [
        (("smus.flow.yaml",), "There is no file 'smus.flow.yaml'.", "did you mean 'sums.flow.yaml'?"),
        (("no/where.flow.yaml",), "There is no file 'no/where.flow.yaml'.", "there is no directory 'no' either"),
        (("nobody",), "Flow 'nobody' is not registered.", "put nobody.flow.yaml here"),
        (("sums", "--tools", "smus.py"), "There is no file 'smus.py'.", "did you mean 'sums.py'?"),
        (("sums", "--tools", "no_such_module"), "There is no module 'no_such_module'.", "give a Python file"),
        (("sums", "--tools", "sums.deeper"), "There is no module 'sums.deeper'.", "give a Python file"),
        (("typo.flow.yaml",), "There are no tools for 'typo.flow.yaml'.", "put them into typo.py beside it"),
        (("sums", "--input", "@no.json"), "There is no file 'no.json' to read the input from.", ""),
        (("sums", "--version", "9"), "Flow 'sums' version '9' is not registered.", "known   1.0.0"),
        (("inside", "--tools", "sums.py", "--version", "9"), "Flow 'inside' version '9' is not registered.", "known"),
    ],
)
def test_what_is_missing_is_named_and_ends_with_2(call: Call, args: tuple[str, ...], sentence: str, help_line: str):
    """CLI: exit status 2 for a missing file, module or flow, and what was probably meant."""
    called = call("run", *args)
    assert called.status == 2
    assert re.match(r"chainweaver: \[CW-E\d{3}\] " + re.escape(sentence), called.err)
    assert help_line in called.err

    answer = call("run", *args, "--format", "json").answer
    assert (answer["status"], len(answer["errors"])) == ("error", 1)
    assert answer["errors"][0]["message"].startswith(sentence)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--input", "[1]"), "--input is a JSON array, not an object."),
        (("--input", "{1}"), "--input is no JSON: Expecting property name"),
        (("--input", "[" * 100_000), "--input is no JSON: "),
        (("--input", "@."), "The input cannot be read from '.'"),
        (("--param", "limit"), "--param 'limit' is not of the form name=value."),
        (("--param", "limt=1"), "--param 'limt' is no dynamic parameter of flow 'sums'."),
        (("--decide", "pay"), "--decide 'pay' is not of the form STEP=TOOL."),
        (("--decide", "pay=x"), "--decide 'pay' is no step that decides."),
        (("--approve", "total"), "--approve 'total' is no tool that requires an approval."),
        (("--deadline", "0"), "--deadline 0 is no time to run in."),
        (("--dry-run-unsupported", "abort"), "--dry-run-unsupported means nothing without --dry-run."),
        (("--trace", "."), "Trace cannot be written to '.': it is a directory."),
        (("--trace", "/nonexist/x"), "Trace cannot be written to '/nonexist/x': there is no directory '/nonexist'."),
        (("--checkpoint", "sums.py/x"), "Checkpoints cannot be kept in 'sums.py/x': "),
    ],
)
def test_a_wrong_command_line_ends_with_2(call: Call, args: tuple[str, ...], sentence: str):
    """CLI: whatever is wrong with what was typed, whoever found it, the exit status is 2; nothing runs."""
    called = call("run", "sums", *args)
    assert (called.status, called.out) == (2, "")
    assert called.err.startswith(f"chainweaver: [CW-E106] {sentence}")


def test_a_file_that_holds_no_input_ends_with_1(call: Call):
    """CLI: exit status 1 for what is there, and is not what it has to be."""
    called = call("run", "sums", "--input", "@sums.py")
    assert (called.status, called.out) == (1, "")
    assert called.err.startswith("chainweaver: [CW-E106] --input @sums.py is no JSON: ")


def test_input_comes_from_a_file_or_from_stdin(call: Call, project: Path):
    """CLI: @file and @-."""
    (project / "given.json").write_text('{"rows": [5]}', encoding="utf-8-sig")
    assert "total   5" in call("run", "sums", "--input", "@given.json").out
    assert "total   6" in call("run", "sums", "--input", "@-", stdin='{"rows": [6]}').out


def test_a_parameter_that_comes_twice_is_refused(call: Call):
    """CLI: which value counts is not left to the order."""
    called = call("run", "graph.flow.json", "--param", "limit=1", "--param", "limit=2")
    assert (called.status, "--param 'limit' is given twice." in called.err) == (2, True)


def test_a_module_that_fails_is_named_with_the_line_that_failed(call: Call, project: Path):
    """CLI: exit status 1; the place is that of the failing line, also inside another module."""
    (project / "sums.py").write_text("import deeper\n", encoding="utf-8")
    (project / "deeper.py").write_text("\n1 / 0\n", encoding="utf-8")
    called = call("run", "sums.flow.yaml")
    assert called.status == 1
    assert "Module 'sums.py' cannot be imported: ZeroDivisionError: division by zero." in called.err
    assert "deeper.py:2" in called.err

    (project / "typing_error.py").write_text("def f(:\n", encoding="utf-8")
    assert "typing_error.py:1" in call("run", "sums", "--tools", "typing_error").err
    (project / "needs.py").write_text("import no_such_module\n", encoding="utf-8")
    assert "Module 'needs' cannot be imported: ModuleNotFoundError" in call("run", "sums", "--tools", "needs").err


def test_a_module_or_a_tool_that_calls_sys_exit_is_told_like_any_other_failure(call: Call, project: Path):
    """CLI: the exit status is ours and not that of a script without a main guard; the envelope is written."""
    (project / "script.py").write_text("import sys\nsys.exit(7)\n", encoding="utf-8")
    (project / "leaves.py").write_text(
        "import sys\nfrom chainweaver import tool\n@tool\ndef total(rows: list[int]) -> int:\n    sys.exit(7)\n"
        "@tool\ndef divide(total: int) -> int:\n    return 1\n",
        encoding="utf-8",
    )

    for name in ("script.py", "script"):
        called = call("run", "sums.flow.yaml", "--tools", name)
        assert (called.status, f"Module '{name}' cannot be imported: SystemExit: 7." in called.err) == (1, True)

    called = call("run", "sums.flow.yaml", "--tools", "leaves", "--input", '{"rows": []}', "--format", "json")
    assert (called.status, called.answer["status"]) == (1, "error")
    assert "SystemExit: 7" in called.answer["errors"][0]["message"]


def test_a_checkpointed_run_that_failed_can_be_found_again(call: Call, project: Path):
    """CLI: the id of the run is printed, and the first step is in the store."""
    called = call("run", "sums", "--input", '{"rows": [1], "by": 0}', "--checkpoint", "kept")

    [run] = FileCheckpointer(project / "kept").list_trace_ids()
    assert f"run {run} is kept in kept" in called.out
    assert FileCheckpointer(project / "kept").load(run).context["total"] == 1

    assert call("run", "sums", *ROWS, "--checkpoint", "good").status == 0
    assert FileCheckpointer(project / "good").list_trace_ids() == []


@pytest.mark.parametrize("concurrency", ["1", "4"])
def test_the_outputs_do_not_depend_on_the_concurrency(call: Call, concurrency: str):
    """R4: --concurrency changes how long it takes, nothing else."""
    called = call("run", "graph.flow.json", "--concurrency", concurrency, "--format", "json")
    assert called.answer["data"]["output"]["report"] == "out/report.md"


def test_a_flow_that_is_not_active_needs_force(call: Call, project: Path):
    """R15: the status is refused before anything starts."""
    text = (project / "sums.flow.yaml").read_text() + "status: disabled\n"
    (project / "sums.flow.yaml").write_text(text, encoding="utf-8")
    refused = call("run", "sums", *ROWS)
    assert (refused.status, "CW-E011" in refused.err) == (1, True)
    assert call("run", "sums", *ROWS, "--force").status == 0


def test_a_collision_that_is_an_error_shows_the_steps_that_ran(call: Call, project: Path):
    """R12: the error is raised out of the call and carries the result."""
    text = (project / "sums.flow.yaml").read_text().replace("tool_name: divide", "tool_name: total")
    (project / "sums.flow.yaml").write_text(text + "on_context_collision: error\n", encoding="utf-8")
    called = call("run", "sums", *ROWS)
    assert (called.status, "CW-E013" in called.err, "1/2  total  ok" in called.out) == (1, True, True)


def test_text_of_tools_cannot_steer_the_terminal(call: Call, project: Path):
    """CLI: control characters in values and messages are spelled out."""
    (project / "sums.py").write_text(
        "from chainweaver import tool\n"
        "@tool\ndef total(rows: list[int]) -> str:\n    return '\\x1b[2J' + '\\u202e'\n"
        "@tool\ndef divide(total: str) -> str:\n    raise ValueError(total)\n",
        encoding="utf-8",
    )
    called = call("run", "sums", *ROWS)
    assert called.status == 1
    assert "\x1b" not in called.out + called.err
    assert "\u202e" not in called.out + called.err
    assert r"\x1b[2J" in called.err


def test_what_was_unusual_about_a_step_is_noted(call: Call, project: Path):
    """R20, R21: retries, fallbacks and skipped steps stand behind their times, with the reason."""
    (project / "rough.py").write_text(
        "from chainweaver import tool\n"
        "left = [OSError('busy'), OSError('busy')]\n"
        "@tool\ndef shaky() -> int:\n    if left:\n        raise left.pop()\n    return 1\n"
        "@tool\ndef broken(shaky: int) -> int:\n    raise ValueError('no')\n"
        "@tool(output='broken')\ndef spare(shaky: int) -> int:\n    return 2\n",
        encoding="utf-8",
    )
    (project / "rough.flow.yaml").write_text(
        "{type: Flow, name: rough, version: 1.0.0, description: '', steps: ["
        "{tool_name: shaky, retry: {max_retries: 2, backoff_seconds: 0}},"
        "{tool_name: broken, on_error: 'fallback:spare'},"
        "{tool_name: broken, on_error: skip}]}",
        encoding="utf-8",
    )
    called = call("run", "rough")
    lines = without_times(called.out).splitlines()
    assert called.status == 0
    assert "1/3  shaky  ok T  retried 2 x" in lines
    assert "2/3  broken  ok T  fallback spare" in lines
    assert "3/3  broken  skipped T  Tool 'broken' failed at step 2: ValueError: no." in lines
    assert any(line.startswith("0     shaky   ok") and line.endswith("retried 2 x") for line in lines)


def test_a_failing_step_of_a_graph_is_found_by_its_id(call: Call, project: Path):
    """CLI: the place is where the step is written, whatever its position in plan order."""
    (project / "late.flow.yaml").write_text(
        "type: DAGFlow\nname: late\nversion: 1.0.0\ndescription: ''\nsteps:\n"
        "  - {step_id: after, tool_name: divide, depends_on: [before]}\n"
        "  - {step_id: before, tool_name: total}\n",
        encoding="utf-8",
    )
    called = call("run", "late", "--tools", "sums.py", "--input", '{"rows": [1], "by": 0}')
    assert "  where   flow 'late' 1.0.0, step 'after' (late.flow.yaml:6)" in called.err.splitlines()


def test_an_error_in_a_flow_of_a_module_names_the_module(call: Call):
    """CLI: without a file there is no line to name."""
    called = call("run", "inside", "--version", "1.0.0", "--tools", "sums.py", "--input", '{"total": 1, "by": 0}')
    assert "  where   flow 'inside' 1.0.0, step '0' (sums.py)" in called.err.splitlines()


def test_a_flow_whose_input_is_refused_has_no_step_to_name(call: Call, project: Path):
    """R8: the error of the flow's own schema names the file."""
    text = (project / "sums.flow.yaml").read_text() + "input_schema_ref: 'given:Given'\n"
    (project / "sums.flow.yaml").write_text(text, encoding="utf-8")
    (project / "given.py").write_text(
        "from pydantic import BaseModel\nclass Given(BaseModel):\n    rows: list[int]\n", encoding="utf-8"
    )
    called = call("run", "sums", "--input", '{"rows": "x"}')
    assert (called.status, "CW-E004" in called.err) == (1, True)
    assert "  where   flow 'sums' 1.0.0" in called.err


def test_a_file_without_a_name_of_its_own_can_fail_and_be_loaded_again(call: Call, project: Path):
    """CLI: what failed half-way is not taken for loaded."""
    tools = project / "my-sums.py"
    tools.write_text("1 / 0\n", encoding="utf-8")
    assert call("run", "sums", *ROWS, "--tools", "my-sums.py").status == 1
    assert call("run", "sums", *ROWS, "--tools", "my-sums.py").status == 1
    tools.write_text((project / "sums.py").read_text(), encoding="utf-8")
    assert call("run", "sums", *ROWS, "--tools", "my-sums.py").status == 0
    assert call("run", "sums", *ROWS, "--tools", "my-sums.py").status == 0


def test_a_graph_that_is_none_is_not_started(call: Call, project: Path):
    """R15: a cycle is told with the file it is in."""
    (project / "sums.flow.yaml").write_text(
        "{type: DAGFlow, name: sums, version: 1.0.0, description: '', steps: ["
        "{step_id: a, tool_name: total, depends_on: [b]}, {step_id: b, tool_name: total, depends_on: [a]}]}",
        encoding="utf-8",
    )
    called = call("run", "sums")
    assert (called.status, "CW-E010" in called.err, "where   sums.flow.yaml" in called.err) == (1, True, True)


OBJECTS = """\
from typing import NamedTuple
import numpy as np
from chainweaver import Flow, FlowStep, Native, tool

class Cells(NamedTuple):
    cells: Native[np.ndarray]
    names: list[str]

@tool
def make(size: int) -> Cells:
    return Cells(np.zeros((size, 2)), ["n"] * 5_000)

@tool(output="total")
def add(cells: Native[np.ndarray]) -> float:
    return float(cells.sum())

small = Flow(name="small", version="1.0.0", description="", steps=[FlowStep(tool_name="make")])
outer = Flow(name="outer", version="1.0.0", description="", outputs=["total"],
             steps=[FlowStep(flow_name="small"), FlowStep(tool_name="add")])
"""


def test_inspect_shows_what_objects_and_large_values_were(call: Call):
    """CLI: a table of its own, steps of sub-flows by their way; values that are small and plain are not in it."""
    Path("objects_made.py").write_text(OBJECTS)

    called = call("run", "outer", "--tools", "objects_made.py", "--input", '{"size": 1000}', "--inspect")

    assert called.status == 0, called.err
    lines = called.out.splitlines()
    at = lines.index("objects")
    assert [re.split("  +", line) for line in lines[at + 1 : at + 7]] == [
        ["step", "value", "type", "what", "size", "where"],
        ["0", "outputs.cells", "numpy.ndarray", "1000 x 2", "float64", "16.0 kB", "heap"],
        ["0", "outputs.names", "list", "5000 items", "?", "heap"],
        ["0/0", "outputs.cells", "numpy.ndarray", "1000 x 2", "float64", "16.0 kB", "heap"],
        ["0/0", "outputs.names", "list", "5000 items", "?", "heap"],
        ["1", "inputs.cells", "numpy.ndarray", "1000 x 2", "float64", "16.0 kB", "heap"],
    ]

    shown = call("run", "small", "--tools", "objects_made.py", "--input", '{"size": 1000}', "--inspect").out
    assert "cells  numpy.ndarray  1000 x 2  float64\n" in shown
    assert "names  ['n', 'n'," in shown


def test_inspect_says_when_there_is_nothing_to_look_at_and_json_has_it_only_when_asked(call: Call):
    """CLI: sums are numbers."""
    shown = call("run", "sums.flow.yaml", *ROWS, "--inspect")
    asked = call("run", "sums.flow.yaml", *ROWS, "--inspect", "--format", "json")
    plain = call("run", "sums.flow.yaml", *ROWS, "--format", "json")

    assert "objects: none, all values are small and plain" in shown.out
    assert json.loads(asked.out)["data"]["objects"] == []
    assert "objects" not in json.loads(plain.out)["data"]
