"""`chainweaver replay` and `chainweaver diff`: traces that are run again, and traces that are compared."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from chainweaver import ExecutionResult, FileTraceStore
from tests.cli.conftest import Call

ROWS = ("--input", '{"rows": [1, 2, 13]}')
PAYS = ("--approve", "card", "--decide", "pay=card")


@pytest.fixture
def trace(call: Call, shop: Path) -> ExecutionResult:
    """A run of the shop, kept in a.json."""
    assert call("run", "shop", *ROWS, *PAYS, "--trace", "a.json").status == 0
    return ExecutionResult.model_validate_json((shop / "a.json").read_bytes())


def change(shop: Path, before: str, after: str, name: str = "changed.py") -> str:
    """A copy of the tools with something changed; the name of the copy."""
    text = (shop / "shop.py").read_text()
    assert before in text
    (shop / name).write_text(text.replace(before, after), encoding="utf-8")
    return name


# ---- replay


def test_a_replay_that_does_the_same_says_so(call: Call, shop: Path, trace: ExecutionResult):
    """R35: decided and approved as in the trace, without an option; exit status 0."""
    called = call("replay", "a.json")
    lines = called.out.splitlines()
    assert (called.status, called.err) == (0, "")
    assert lines[0] == f"shop 1.0.0, replay of run {trace.trace_id}: 6 steps, 7 tools from shop.py"
    assert any(line.startswith("3/6  pay (card)  ok") and "chose card" in line for line in lines)
    assert lines[-1] == "shop 1.0.0: ok, the same"

    data = call("replay", "a.json", "--format", "json").answer["data"]
    assert (data["same"], data["differences"], data["first"], data["mode"]) == (True, [], None, "verify")
    assert data["recorded"] == trace.trace_id != data["run"]


def test_the_first_difference_comes_first_and_is_the_message(call: Call, shop: Path, trace: ExecutionResult):
    """R35: step, field and both values; exit status 1."""
    changed = change(shop, "RATE = 10", "RATE = 11")
    called = call("replay", "a.json", "--tools", changed)
    assert called.status == 1
    shown = called.out[called.out.index("step 'parcels/0/0'") :].splitlines()
    assert shown[:3] == [
        "step 'parcels/0/0' (weigh), outputs.weight",
        "  recorded  10",
        "  replayed  11",
    ]
    assert "  recorded  '<10>'" in shown
    assert shown[-1] == "shop 1.0.0: ok, 13 differences"
    assert called.err.splitlines() == [
        f"chainweaver: [CW-E113] Replay of run '{trace.trace_id}': "
        "step 'parcels/0/0' (weigh), outputs.weight: expected 10, found 11 (12 more).",
        "  where   flow 'shop' 1.0.0",
    ]

    answer = call("replay", "a.json", "--tools", changed, "--format", "json").answer
    first = answer["data"]["first"]
    assert (answer["status"], len(answer["errors"])) == ("error", 1)
    assert first == answer["data"]["differences"][0]
    assert (first["path"], first["step"], first["field"], first["place"]) == (
        ["parcels", "0"],
        "0",
        "outputs",
        "outputs.weight",
    )
    assert (first["expected"], first["actual"]) == (10, 11)


def test_many_differences_are_counted_and_not_all_shown(call: Call, shop: Path):
    """CLI: a screen has an end; JSON has all of them."""
    rows = json.dumps({"rows": list(range(20, 40))})
    assert call("run", "shop", "--input", rows, *PAYS, "--trace", "a.json").status == 0
    called = call("replay", "a.json", "--tools", change(shop, "RATE = 10", "RATE = 11"))
    assert re.search(r"^\.\.\. and \d+ differences more$", called.out, re.MULTILINE)


@pytest.mark.parametrize("step", ["pay", "3"])
def test_a_replay_from_the_middle_takes_the_steps_before_from_the_trace(
    call: Call, shop: Path, trace: ExecutionResult, step: str
):
    """R35: a step is named by its id or by its position in plan order."""
    changed = change(shop, "standard {total}", "slow {total}")
    assert call("replay", "a.json", "--tools", changed).status == 1
    called = call("replay", "a.json", "--tools", changed, "--from-step", step)
    assert (called.status, called.out.splitlines()[-1]) == (0, "shop 1.0.0: ok, the same from step 3 on")
    assert "standard (standard)" not in called.out


def test_executing_decides_anew_and_takes_differences_for_information(call: Call, shop: Path, trace: ExecutionResult):
    """R35: exit status 0 as long as the run ends well."""
    called = call("replay", "a.json", "--execute", "--decide", "pay=wire", "--trace", "b.json")
    assert (called.status, called.err) == (0, "")
    assert "step 'pay' (card), decision.chosen\n  recorded  'card'\n  replayed  'wire'\n" in called.out
    assert called.out.splitlines()[-1] == "shop 1.0.0: ok, 2 differences"
    assert "is written to b.json" in called.out
    assert ExecutionResult.model_validate_json((shop / "b.json").read_bytes()).step("pay").decision["chosen"] == "wire"

    failed = call("replay", "a.json", "--execute")
    assert (failed.status, "nobody has chosen among card, wire" in failed.err) == (1, True)


def test_a_trace_of_a_store_is_replayed_too(call: Call, shop: Path, trace: ExecutionResult):
    """R35: what `FileTraceStore` keeps is the same document; a failed run that fails alike is the same."""
    store = FileTraceStore(shop / "traces")
    store.save(trace)
    assert call("replay", f"traces/{trace.trace_id}.trace.json").status == 0
    assert call("run", "shop", "--input", '{"rows": [13]}', *PAYS, "--trace", "failed.json").status == 1
    called = call("replay", "failed.json")
    assert (called.status, called.out.splitlines()[-1]) == (0, "shop 1.0.0: failed, the same")


def test_dynamic_parameters_are_passed_again(call: Call):
    """R13: they are in no trace."""
    assert call("run", "graph.flow.json", "--param", "limit=3", "--trace", "a.json").status == 0
    assert call("replay", "a.json", "--param", "limit=3").status == 0
    called = call("replay", "a.json", "--param", "limit=4")
    assert (called.status, "outputs.rows[3]" in called.err) == (1, True)


@pytest.mark.parametrize(
    ("args", "status", "sentence"),
    [
        (("nix.json",), 2, "There is no file 'nix.json'."),
        ((".",), 2, "File '.' cannot be read: Is a directory."),
        (("shop.py",), 1, "File 'shop.py' holds no trace: "),
        (("graph.flow.json",), 1, "File 'graph.flow.json' holds no trace: flow_name: Field required; "),
        (("old.json",), 1, "File 'old.json' holds a trace of version '0', this release reads '1'."),
        (
            ("a.json", "--flow", "sums.flow.yaml"),
            2,
            "The trace is one of flow 'shop', and 'sums.flow.yaml' holds 'sums'.",
        ),
        (("a.json", "--approve", "all"), 2, "--approve and --decide mean nothing without --execute"),
        (("a.json", "--decide", "pay=card"), 2, "--approve and --decide mean nothing without --execute"),
        (("a.json", "--from-step", "pya"), 2, "--from-step 'pya' is no step of flow 'shop'."),
        (("a.json", "--from-step", "7"), 2, "--from-step '7' is no step of flow 'shop'."),
        (("a.json", "--param", "x=1"), 2, "--param 'x' is no dynamic parameter of flow 'shop'."),
        (("a.json", "--trace", "no/b.json"), 2, "Trace cannot be written to 'no/b.json'"),
        (("failed.json", "--from-step", "6"), 1, "cannot be replayed: step 'gift' has the status 'failed'"),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    call: Call, shop: Path, trace: ExecutionResult, args: tuple[str, ...], status: int, sentence: str
):
    """CLI: 2 for a wrong command line, 1 for a file or a record that is not right; nothing ran."""
    (shop / "old.json").write_text(
        (shop / "a.json").read_text().replace('"trace_schema_version": "1"', '"trace_schema_version": "0"')
    )
    if args[0] == "failed.json":
        assert call("run", "shop", "--input", '{"rows": [13]}', *PAYS, "--trace", "failed.json").status == 1
    called = call("replay", *args)
    assert called.status == status
    assert sentence in called.err
    assert "ok" not in called.out


def test_a_version_that_is_gone_is_named(call: Call, shop: Path, trace: ExecutionResult):
    """R35: the recorded version is the one that runs, or none."""
    text = (shop / "shop.flow.yaml").read_text().replace("1.0.0", "1.1.0")
    (shop / "shop.flow.yaml").write_text(text, encoding="utf-8")
    called = call("replay", "a.json")
    assert called.status == 2
    assert called.err.splitlines()[:3] == [
        "chainweaver: [CW-E002] Flow 'shop' version '1.0.0' is not registered.",
        "  where   shop.flow.yaml",
        "  known   1.1.0",
    ]


# ---- diff


def test_equal_traces_are_the_same(call: Call, shop: Path, trace: ExecutionResult):
    """CLI: ids and times are no difference; exit status 0."""
    assert call("run", "shop", *ROWS, *PAYS, "--trace", "b.json").status == 0
    called = call("diff", "a.json", "b.json")
    assert (called.status, called.err) == (0, "")
    assert called.out.splitlines()[0] == f"a.json  shop 1.0.0: ok, 6 steps, run {trace.trace_id}"
    assert called.out.splitlines()[-1] == "the same"
    assert call("diff", "a.json", "b.json", "--format", "json").answer["data"] == {
        "same": True,
        "first": None,
        "differences": [],
        "not_compared": [],
    }


def test_what_two_traces_do_not_have_in_common_is_listed(call: Call, shop: Path, trace: ExecutionResult):
    """CLI: the first difference is the message, exit status 1."""
    assert (
        call("run", "shop", "--input", '{"rows": [1, 2, 14]}', "--decide", "pay=wire", "--trace", "b.json").status == 0
    )
    called = call("diff", "a.json", "b.json")
    assert called.status == 1
    lines = called.out.splitlines()
    assert lines[3:10] == [
        "input of flow 'shop', initial_input.rows[2]",
        "  a.json  13",
        "  b.json  14",
        "",
        "step 'total', inputs.rows[2]",
        "  a.json  13",
        "  b.json  14",
    ]
    assert called.err.startswith(
        "chainweaver: [CW-E113] 'a.json' and 'b.json' differ: input of flow 'shop', initial_input"
    )
    data = call("diff", "a.json", "b.json", "--format", "json").answer["data"]
    assert data["first"]["place"] == "initial_input.rows[2]"
    assert {one["step"] for one in data["differences"]} == {None, "total", "standard", "pay", "parcels", "0", "1", "2"}
    assert {tuple(one["path"]) for one in data["differences"]} == {(), ("parcels",), ("parcels", "2")}


def test_traces_of_two_flows_are_told_apart(call: Call, shop: Path, trace: ExecutionResult):
    """CLI: that is the first difference."""
    assert call("run", "sums", "--input", '{"rows": [1]}', "--trace", "b.json").status == 0
    called = call("diff", "a.json", "b.json")
    assert (called.status, "flow_name: expected 'shop', found 'sums'" in called.err) == (1, True)


@pytest.mark.parametrize(("file", "status"), [("nix.json", 2), ("shop.py", 1)])
def test_what_is_no_trace_is_not_compared(call: Call, shop: Path, trace: ExecutionResult, file: str, status: int):
    """CLI: missing is 2, wrong is 1; the fix says how to write one."""
    for args in ((file, "a.json"), ("a.json", file)):
        called = call("diff", *args)
        assert (called.status, called.out) == (status, "")
    if status == 1:
        assert "  fix     write one with: chainweaver run ... --trace FILE" in called.err.splitlines()
