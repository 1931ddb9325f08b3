"""Durable runs from a shell: admitted, shown, gone on with, recovered, forgotten; and what a deploy would break."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from chainweaver.cli._stores import shown_url
from chainweaver.registry import FlowRegistry
from chainweaver.sql import SqlFlows, SqlStore, open_store
from tests.cli.conftest import Call

STORE = "sqlite:///runs.db"
FILES = {
    "order.flow.yaml": """\
        type: DAGFlow
        name: order
        version: 1.0.0
        description: An order.
        steps:
          - step_id: net
            tool_name: net
          - step_id: pay
            tool_name: pay
            depends_on: [net]
          - step_id: mail
            tool_name: mail
            depends_on: [pay]
    """,
    "order.py": """\
        import os
        import time
        from chainweaver import ToolSafetyContract, tool

        def note(name):
            with open("calls.txt", "a") as file:
                file.write(name + " ")

        @tool
        def net(price: int, api_key: str = "") -> int:
            note("net")
            return price * 2

        @tool(safety=ToolSafetyContract(requires_approval=True))
        def pay(net: int) -> str:
            note("pay")
            if os.path.exists("down"):
                raise OSError("bank is down")
            while os.path.exists("slow"):
                time.sleep(0.01)
            if os.path.exists("late"):
                time.sleep(2)
            return f"paid {net}"

        @tool
        def mail(pay: str) -> str:
            note("mail")
            return f"sent: {pay}"
    """,
    "other.flow.yaml": """\
        {type: Flow, name: other, version: 1.0.0, description: '', steps: [{tool_name: elsewhere}]}
    """,
}
GIVEN = ("--input", '{"price": 5, "api_key": "s3cret-key"}')
ALL = ("--approve", "all")


@pytest.fixture
def desk(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project with an order in it, and a store named by the environment."""
    for name, text in FILES.items():
        (project / name).write_text(dedent(text), encoding="utf-8")
    monkeypatch.setenv("CHAINWEAVER_STORE", STORE)
    return project


@pytest.fixture
def store(desk: Path) -> Iterator[SqlStore]:
    """The store, as another process has it."""
    with open_store(STORE) as opened:
        yield opened


def calls(desk: Path) -> list[str]:
    return (desk / "calls.txt").read_text().split()


def failed_run(call: Call, desk: Path, *more: str) -> str:
    """A run that failed because the bank was down."""
    (desk / "down").touch()
    called = call("run", "order.flow.yaml", *GIVEN, *ALL, *more, "--format", "json")
    (desk / "down").unlink()
    assert called.status == 1
    return str(called.answer["data"]["run"])


def orphan(call: Call, desk: Path, store: SqlStore, *more: str) -> str:
    """The same run, as a process leaves it that dies."""
    run = failed_run(call, desk, *more)
    store.runs.claim(run)
    store.runs.finish(run, "running")
    return run


# ---- run --store


def test_a_run_with_a_store_is_found_there_again(call: Call, desk: Path):
    """CLI, R32: the store of --store or of the environment has the run, its steps and its flow."""
    called = call("run", "order.flow.yaml", *GIVEN, *ALL, "--store", "sqlite:///mine.db")

    assert called.status == 0
    assert "is kept in sqlite:///mine.db" in called.out
    assert not (desk / "runs.db").exists()
    with open_store("sqlite:///mine.db") as store:
        [info] = store.runs.list_runs()
        assert (info.flow_name, info.status, info.steps_done, info.key) == ("order", "ok", 3, None)
        assert store.flows.list_keys() == [("order", "1.0.0")]


def test_a_key_gives_the_run_that_has_it(call: Call, desk: Path, store: SqlStore):
    """CLI, R32: the second call finds the result of the first and calls no tool."""
    first = call("run", "order", *GIVEN, *ALL, "--key", "order-7", "--format", "json").answer["data"]
    again = call("run", "order", *GIVEN, *ALL, "--key", "order-7", "--format", "json").answer["data"]

    assert (again["run"], again["output"]) == (first["run"], first["output"])
    assert calls(desk) == ["net", "pay", "mail"]
    other = call("run", "order", "--input", '{"price": 6}', *ALL, "--key", "order-7")
    assert (other.status, "was begun with another input" in other.err) == (1, True)


def test_a_key_without_a_store_is_told_so(call: Call, desk: Path, monkeypatch: pytest.MonkeyPatch):
    """CLI: a promise that nobody can keep is refused."""
    monkeypatch.delenv("CHAINWEAVER_STORE")
    called = call("run", "order", "--key", "order-7")
    assert (called.status, "--key means nothing without --store" in called.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--key", ""), "--key '' names no run"),
        (("--key", "order-7", "--store", STORE, "--dry-run"), "--key means nothing with --dry-run"),
        (("--key", "order-7", "--checkpoint", "kept"), "--store sqlite:///runs.db, in the place of --checkpoint"),
    ],
)
def test_a_key_that_no_run_can_have_is_told_so(call: Call, desk: Path, options: tuple[str, ...], told: str):
    """CLI: it is the command line that is wrong, and the message says what on it."""
    called = call("run", "order", *GIVEN, *ALL, *options)
    assert (called.status, told in called.err) == (2, True), called.err
    assert not (desk / "calls.txt").exists()


@pytest.mark.parametrize("store", ["sqlite://", "sqlite:///:memory:"])
def test_a_run_in_memory_is_not_said_to_be_kept(call: Call, desk: Path, store: str):
    """CLI: nobody finds it again, so that nobody is told to go on with it."""
    (desk / "down").touch()
    called = call("run", "order.flow.yaml", *GIVEN, *ALL, "--store", store)
    assert (called.status, "is kept" in called.out, "go on with" in called.out) == (1, False, False)
    assert f"is not kept: {store} ends with this command" in called.out


def test_a_run_is_kept_in_one_place(call: Call, desk: Path):
    """CLI: a directory that is named comes before a store of the environment, and not beside one that is named too."""
    assert call("run", "order", *GIVEN, *ALL, "--checkpoint", "kept").status == 0
    assert not (desk / "runs.db").exists()
    called = call("run", "order", *GIVEN, "--checkpoint", "kept", "--store", STORE)
    assert (called.status, "exclude each other" in called.err) == (2, True)


def test_a_rehearsal_is_no_durable_run(call: Call, desk: Path):
    """CLI, R34: a dry run leaves nothing behind."""
    call("run", "order", *GIVEN, "--dry-run")
    assert not (desk / "runs.db").exists()


def test_a_version_that_the_store_has_does_not_change(call: Call, desk: Path, store: SqlStore):
    """CLI, R33: runs have begun with it. What a file says otherwise has to have another version."""
    failed_run(call, desk)
    text = (desk / "order.flow.yaml").read_text()
    (desk / "order.flow.yaml").write_text(text.replace("tool_name: net", "tool_name: net\n    on_error: skip"))

    called = call("run", "order", *GIVEN, *ALL)

    assert called.status == 1
    assert "Flow 'order' 1.0.0 in 'order.flow.yaml' is not the one in 'sqlite:///runs.db'" in called.err
    assert "give the flow another version" in called.err
    assert len(store.runs.list_runs()) == 1


def test_a_flow_that_is_disabled_in_the_store_is_not_run(call: Call, desk: Path, store: SqlStore):
    """CLI, R15: what is decided in the store holds for everybody who uses it."""
    call("flows", "push", "order.flow.yaml")
    FlowRegistry(store.flows).set_flow_status("order", "disabled")
    assert "[CW-E011]" in call("run", "order", *GIVEN).err
    assert call("run", "order", *GIVEN, *ALL, "--force").status == 0


# ---- list and show


def test_runs_are_listed_the_latest_first(call: Call, desk: Path, store: SqlStore):
    """CLI: a table for people, with the columns that somebody has something in."""
    call("run", "order", *GIVEN, *ALL)
    second = failed_run(call, desk, "--key", "order-8")

    lines = call("runs", "list").out.splitlines()

    assert lines[1] == "sqlite:///runs.db"
    assert lines[2].split() == ["run", "flow", "status", "steps", "started", "key", "error"]
    assert lines[3].split()[:5] == [second, "order", "1.0.0", "failed", "1"]
    assert lines[3].endswith("order-8  CW-E006 at step 'pay'")
    assert lines[-1] == "2 runs"


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--status", "ok"), ["ok"]),
        (("--status", "failed"), ["failed"]),
        (("--orphaned",), ["running"]),
        (("--flow", "order", "--limit", "2"), ["running", "failed"]),
        (("--key", "order-8"), ["running"]),
        (("--flow", "other"), []),
    ],
)
def test_runs_are_filtered(call: Call, desk: Path, store: SqlStore, options: tuple[str, ...], found: list[str]):
    """CLI: by status, flow and key; and those that wait for somebody to go on with them."""
    call("run", "order", *GIVEN, *ALL)
    failed_run(call, desk)
    orphan(call, desk, store, "--key", "order-8")
    call("flows", "push", "other.flow.yaml")

    answer = call("runs", "list", *options, "--format", "json").answer

    assert [one["status"] for one in answer["data"]["runs"]] == found
    assert answer["data"]["more"] is ("--limit" in options)


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("list", "--status", "done"), 2, "'done' is not one of 'running'"),
        (("list", "--flow", "ordr"), 2, "did you mean 'order'?"),
        (("list", "--key", "nobody"), 2, "--key 'nobody' belongs to no run of this store"),
        (("list", "--limit", "0"), 2, "--limit"),
        (("list", "--store", "sqlite:///rnus.db"), 2, "did you mean 'runs.db'?"),
        (("list", "--store", "mysql://root:hunter2@db/x"), 2, "--store is no store"),
        (("list", "--store", "sqlite://user:hunter2@db/x"), 2, "--store is no store"),
        (("list", "--store", "sqlite:///order.py"), 1, "[CW-E102]"),
        (("show", "nobody"), 2, "No checkpoint is stored for run 'nobody'"),
        (("resume", "nobody", "--tools", "order.py"), 2, "No checkpoint is stored for run 'nobody'"),
        (("prune",), 2, "--older-than 30d"),
        (("prune", "--older-than", "monday"), 2, "--older-than 'monday' is no age"),
        (("prune", "--keep-last", "0"), 2, "nobody is there to agree"),
        (("recover",), 2, "name their module with --tools"),
    ],
)
def test_what_cannot_be_done_is_told_with_what_can(
    call: Call, desk: Path, arguments: tuple[str, ...], status: int, told: str
):
    """CLI: unknown values are errors, and no message shows a password."""
    failed_run(call, desk)
    called = call("runs", *arguments)
    assert (called.status, told in called.err) == (status, True), called.err
    assert "hunter2" not in called.out + called.err


def test_no_store_is_told_so(call: Call, desk: Path, monkeypatch: pytest.MonkeyPatch):
    """CLI: the message names the option and the variable."""
    monkeypatch.delenv("CHAINWEAVER_STORE")
    called = call("runs", "list")
    assert (called.status, "--store sqlite:///runs.db, or set CHAINWEAVER_STORE" in called.err) == (2, True)


def test_looking_makes_no_store(call: Call, desk: Path):
    """CLI: a name that was mistyped is not a new store without runs."""
    for command in (("runs", "list"), ("flows", "list"), ("runs", "prune", "--keep-last", "0", "--yes")):
        assert call(*command).status == 2
    assert not (desk / "runs.db").exists()


def test_looking_into_a_database_of_another_program_puts_nothing_into_it(call: Call, desk: Path):
    """CLI: it is no store, and stays none."""
    with sqlite3.connect(desk / "runs.db") as connection:
        connection.execute("create table theirs (n)")
    connection.close()
    before = (desk / "runs.db").read_bytes()
    for command in (("runs", "list"), ("flows", "list"), ("runs", "prune", "--keep-last", "0", "--yes")):
        called = call(*command)
        assert (called.status != 0, "it has no tables of chainweaver" in called.err) == (True, True), called.err
    assert (desk / "runs.db").read_bytes() == before


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada:s3cret@db:5432/runs", "postgresql://ada@db:5432/runs"),
        ("postgresql://ada:p@ss:w/rd@db:5432/runs", "postgresql://ada@db:5432/runs"),
        ("postgresql://db/runs?user=ada&p%61ssword=s3cret", "postgresql://db/runs?user=ada"),
        ("postgresql://ada@db/runs", "postgresql://ada@db/runs"),
        ("sqlite:///runs.db", "sqlite:///runs.db"),
    ],
)
def test_a_password_of_a_url_is_never_shown(url: str, shown: str):
    """CLI: neither in a heading nor in an error, and a store has one name in both."""
    assert shown_url(url) == shown


@pytest.mark.parametrize("command", [("runs", "list"), ("flows", "list"), ("runs", "show", "x")])
def test_whoever_only_looks_is_told_soon_that_nobody_answers(
    call: Call, desk: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
):
    """CLI: the patience of a program that must not lose a run is not that of a person who mistyped a host."""
    pytest.importorskip("psycopg")
    monkeypatch.setattr("chainweaver.cli._stores._LOOKING_S", 0.2)
    called = call(*command, "--store", "postgresql://ada@127.0.0.1:1/runs")
    assert (called.status, "it was tried for 0.2 s" in called.err) == (2, True), called.err


def test_a_run_that_goes_on_is_listed_with_its_claim(call: Call, desk: Path, store: SqlStore):
    """CLI, R32: by whom it is executed, and when others may go on with it if that process has died."""
    run = failed_run(call, desk)
    store.runs.claim(run)

    lines = call("runs", "list").out.splitlines()
    [data] = call("runs", "list", "--format", "json").answer["data"]["runs"]

    assert "by  " in lines[2]
    assert "claimed for" in lines[2]
    left = re.search(rf"{store.runs.owner}  +(\d+) s", lines[3])
    assert left is not None, lines[3]
    assert 0 < int(left[1]) <= 30
    assert 0 < data["seconds_left"] <= 30
    assert f"running, executed by {store.runs.owner}, claimed for " in call("runs", "show", run).out


def test_a_run_is_shown_with_its_steps_and_without_its_secrets(call: Call, desk: Path):
    """CLI: how it stands, what it was begun with and what is committed; secrets are hidden as in other views."""
    run = failed_run(call, desk, "--key", "order-8")

    called = call("runs", "show", run)
    answer = call("runs", "show", run, "--format", "json").answer

    lines = called.out.splitlines()
    assert lines[:5] == [
        f"run      {run}",
        "flow     order 1.0.0",
        "status   failed",
        "key      order-8",
        "error    CW-E006 at step 'pay'",
    ]
    assert "api_key  ***" in lines
    assert lines[-1].split()[:3] == ["net", "net", "ok"]
    assert answer["data"]["input"] == {"price": 5, "api_key": "***"}
    assert [(one["step"], one["outputs"]) for one in answer["data"]["committed"]] == [("net", {"net": 10})]
    assert "s3cret-key" not in called.out + str(answer)


def test_a_run_whose_steps_were_not_kept_is_shown_all_the_same(call: Call, desk: Path, store: SqlStore):
    """CLI: the log says that it was there."""
    run = failed_run(call, desk)
    store.runs.claim(run)
    store.runs.finish(run, "ok", keep=False)
    assert call("runs", "show", run).out.splitlines()[-1] == "its steps were not kept"


# ---- resume and recover


def test_a_run_goes_on_with_what_is_left(call: Call, desk: Path):
    """CLI, R32: committed steps are not called again; the flow comes from the store, the tools from --tools."""
    run = failed_run(call, desk)
    (desk / "order.flow.yaml").unlink()

    called = call("runs", "resume", run, "--tools", "order.py", *ALL)

    assert called.status == 0, called.err
    assert called.out.splitlines()[0] == "order 1.0.0, 1 of 3 steps done, 3 tools from order.py"
    assert "mail     sent: paid 10" in called.out
    assert calls(desk) == ["net", "pay", "pay", "mail"]


def test_a_resume_needs_the_approvals_that_a_run_needs(call: Call, desk: Path):
    """CLI: nobody has agreed to anything but what was said this time."""
    run = failed_run(call, desk)
    called = call("runs", "resume", run, "--tools", "order.py")
    assert called.status == 1
    assert "--approve pay" in called.err
    assert f"go on with: chainweaver runs resume {run}" in called.out


@pytest.mark.parametrize("more", [(), ("--store", "sqlite:///my runs.db"), ("--tools", "order.py")])
def test_a_run_goes_on_with_the_command_that_is_shown(call: Call, desk: Path, more: tuple[str, ...]):
    """CLI: as it stands there, in a shell of the same directory with the same environment."""
    (desk / "down").touch()
    first = call("run", "order.flow.yaml", *GIVEN, *ALL, *more)
    again = call(*_shown_command(first.out))
    (desk / "down").unlink()

    done = call(*_shown_command(again.out))

    assert (again.status, done.status) == (1, 0), again.err + done.err
    assert calls(desk) == ["net", "pay", "pay", "pay", "mail"]


def _shown_command(out: str) -> list[str]:
    program, *words = shlex.split(out.partition("go on with: ")[2].splitlines()[0])
    assert program == "chainweaver"
    return words


def test_a_command_that_is_shown_has_flows_and_parameters_as_well(call: Call, desk: Path, store: SqlStore):
    """CLI: directories of flows as they were given; of parameters, which may be secrets, the names."""
    text = (desk / "order.flow.yaml").read_text()
    (desk / "order.flow.yaml").write_text(text.replace("steps:", "dynamic_params: [api_key]\nsteps:"))
    (desk / "down").touch()
    first = call("run", "order.flow.yaml", "--input", '{"price": 5}', *ALL, "--param", "api_key=s3cret-key")
    assert first.out.splitlines()[-2].endswith("--tools order.py --approve all, and the same --param api_key")
    [info] = store.runs.list_runs()
    store.flows.delete_flow("order", "1.0.0")
    given = ("--tools", "order.py", "--flows", ".")

    again = call("runs", "resume", info.trace_id, *given, *ALL, "--param", "api_key=s3cret-key")

    assert f"go on with: chainweaver runs resume {info.trace_id} {' '.join(given)} --approve all, and" in again.out
    assert "s3cret-key" not in first.out + again.out


def test_a_resume_without_the_tools_of_the_flow_does_not_begin(call: Call, desk: Path, store: SqlStore):
    """CLI: half a run more would help nobody."""
    run = failed_run(call, desk)
    called = call("runs", "resume", run, "--tools", "graph.py")
    assert called.status == 1
    assert "Tool 'net'" in called.err or "'net'" in called.err
    assert store.runs.info(run).status == "failed"


def test_a_run_of_a_flow_that_is_nowhere_says_where_to_put_it(call: Call, desk: Path, store: SqlStore):
    """CLI: runs of programs may be of flows that are not in the store."""
    run = failed_run(call, desk)
    store.flows.delete_flow("order", "1.0.0")

    called = call("runs", "resume", run, "--tools", "order.py", *ALL)

    assert called.status == 2
    assert "chainweaver flows push its file, or name its directory with --flows" in called.err
    assert call("runs", "resume", run, "--tools", "order.py", "--flows", ".", *ALL).status == 0


def test_runs_that_nobody_executes_are_recovered(call: Call, desk: Path, store: SqlStore):
    """CLI, R33: the oldest first, a line for each; the exit status says whether all are well."""
    first, second = orphan(call, desk, store), orphan(call, desk, store)
    ended = failed_run(call, desk)

    called = call("runs", "recover", "--tools", "order.py", *ALL)

    assert called.status == 0, called.err
    assert [line.split()[:3] for line in called.out.splitlines()[:2]] == [
        ["ok", first, "order"],
        ["ok", second, "order"],
    ]
    assert called.out.splitlines()[-1] == "2 runs: 2 ok, 0 not"
    assert store.runs.info(ended).status == "failed"
    assert call("runs", "recover", "--tools", "order.py").out == "nothing to go on with\n"


def test_as_many_runs_are_recovered_as_are_wanted(call: Call, desk: Path, store: SqlStore):
    """CLI: a limit leaves the others to the next call, or to another process."""
    runs = [orphan(call, desk, store) for _ in range(3)]
    data = call("runs", "recover", "--limit", "2", "--tools", "order.py", *ALL, "--format", "json").answer["data"]
    assert [(one["run"], one["status"]) for one in data["runs"]] == [(run, "ok") for run in runs[:2]]
    assert store.runs.info(runs[2]).is_orphan


def test_runs_that_are_still_claimed_are_told(call: Call, desk: Path, store: SqlStore):
    """CLI, R32: the run of a process that has just died is nobody's a little later, and whoever recovers is told so."""
    run = failed_run(call, desk)
    store.runs.claim(run)

    called = call("runs", "recover", "--tools", "order.py")
    data = call("runs", "recover", "--tools", "order.py", "--format", "json").answer["data"]

    assert called.status == 0
    first, last = called.out.splitlines()
    assert re.fullmatch(r"claimed +1 run, for \d+ s at most unless that is renewed", first)
    assert last == "nothing to go on with"
    assert data["claimed"]["runs"] == 1
    assert 0 < data["claimed"]["seconds_left"] <= 30


def test_a_run_that_is_not_done_in_time_is_handed_back(call: Call, desk: Path, store: SqlStore):
    """CLI: the deadline is one of the command, and is no reason why a run should have ended."""
    run = orphan(call, desk, store)
    (desk / "late").touch()

    called = call("runs", "recover", "--tools", "order.py", *ALL, "--deadline", "1")

    assert called.status == 130
    assert f"Run '{run}': The time of --deadline is over: the run was handed back" in called.err
    assert calls(desk) == ["net", "pay", "pay"]


def test_a_run_that_fails_again_is_told(call: Call, desk: Path, store: SqlStore):
    """CLI: every run that is not well has its error, and the others have been gone on with."""
    first = orphan(call, desk, store)
    (desk / "down").touch()
    called = call("runs", "recover", "--tools", "order.py", *ALL)
    assert called.status == 1
    assert f"where   run '{first}'" in called.err or "OSError: bank is down" in called.err
    assert called.out.splitlines()[-1] == "1 run: 0 ok, 1 not"


def test_runs_of_other_tools_are_left_to_others(call: Call, desk: Path, store: SqlStore):
    """CLI: a run is not made to fail by somebody who lacks its tools."""
    run = orphan(call, desk, store)
    called = call("runs", "recover", "--tools", "graph.py")
    assert called.status == 0
    assert called.out.startswith("left to others  order 1.0.0: ")
    assert store.runs.info(run).is_orphan


def test_a_signal_hands_a_run_back(desk: Path, store: SqlStore):
    """CLI: SIGTERM ends the command at the next step; what is committed stays, and the run is nobody's."""
    (desk / "slow").touch()
    command = [sys.executable, "-m", "chainweaver", "run", "order.flow.yaml", *GIVEN, *ALL]
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": root}, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (desk / "calls.txt").exists() or calls(desk)[-1] != "pay":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    (desk / "slow").unlink()
    _, err = process.communicate(timeout=60)

    [info] = store.runs.list_runs()
    assert process.returncode == 130
    assert "handed back" in err
    assert (info.is_orphan, info.owner) == (True, None)
    assert calls(desk) == ["net", "pay"]


# ---- prune


def test_runs_that_have_ended_are_forgotten(call: Call, desk: Path, store: SqlStore):
    """CLI: the latest stay, and so does every run that has not ended."""
    for _ in range(3):
        call("run", "order", *GIVEN, *ALL)
    waiting = orphan(call, desk, store)

    assert call("runs", "prune", "--older-than", "1h", "--yes").out == "forgot 0 runs\n"
    assert call("runs", "prune", "--keep-last", "1", "--yes").out == "forgot 2 runs\n"
    assert len(store.runs.list_runs()) == 2
    call("runs", "prune", "--keep-last", "0", "--yes")
    assert [info.trace_id for info in store.runs.list_runs()] == [waiting]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no pseudo terminals")
@pytest.mark.parametrize(("typed", "status", "told", "left"), [
    ("y\n", 0, "forgot 1 run", 0), ("n\n", 2, "Nothing was forgotten", 1), ("\x04", 2, "Nothing was forgotten", 1),
])  # fmt: skip
def test_somebody_at_a_terminal_is_asked(
    call: Call, desk: Path, store: SqlStore, typed: str, status: int, told: str, left: int
):
    """CLI: runs are forgotten for good, so that nothing but a yes counts as one."""
    failed_run(call, desk)
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "chainweaver", "runs", "prune", "--keep-last", "0"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    os.write(ours, typed.encode())
    done = subprocess.run(
        command, env=environment, stdin=theirs, capture_output=True, text=True, timeout=60, check=False
    )
    os.close(ours)
    os.close(theirs)

    assert (done.returncode, told in done.stdout + done.stderr) == (status, True), done
    assert "Forget 1 run of " in done.stdout
    assert len(store.runs.list_runs()) == left


# ---- flows


def test_flows_go_into_a_store_and_come_out_of_it(call: Call, desk: Path):
    """CLI: what is pulled is what was pushed."""
    assert call("flows", "push", "order.flow.yaml", "other.flow.yaml").out.splitlines() == [
        "added      order 1.0.0  order.flow.yaml",
        "added      other 1.0.0  other.flow.yaml",
    ]
    assert call("flows", "push", "order.flow.yaml").out == "unchanged  order 1.0.0  order.flow.yaml\n"
    assert call("flows", "list").out.splitlines()[-1] == "2 flows, 2 versions"
    assert call("flows", "pull", "order", "-o", "out").out == "order 1.0.0  out/order.flow.yaml\n"
    assert call("flows", "push", "out/order.flow.yaml").out.startswith("unchanged")
    assert call("flows", "pull", "order@1.0.0", "-o", "-", "--as", "json").out.startswith("{")
    again = call("flows", "pull", "order", "-o", "out")
    assert (again.status, "--overwrite" in again.err) == (1, True)


def test_the_status_of_flows_is_listed(call: Call, desk: Path, store: SqlStore):
    """CLI: which versions there are, and which of them may run."""
    call("flows", "push", "order.flow.yaml", "other.flow.yaml")
    FlowRegistry(store.flows).set_flow_status("other", "disabled")
    data = call("flows", "list", "--format", "json").answer["data"]
    assert [(one["flow"], one["version"], one["status"]) for one in data["flows"]] == [
        ("order", "1.0.0", "active"),
        ("other", "1.0.0", "disabled"),
    ]
    only = call("flows", "list", "--status", "active", "--format", "json").answer["data"]
    assert [one["flow"] for one in only["flows"]] == ["order"]


def test_a_version_is_replaced_only_when_that_is_said(call: Call, desk: Path, store: SqlStore):
    """CLI: of several files all are pushed or none."""
    call("flows", "push", "order.flow.yaml")
    text = (desk / "order.flow.yaml").read_text().replace("An order.", "Another.")
    (desk / "order.flow.yaml").write_text(text)

    called = call("flows", "push", "other.flow.yaml", "order.flow.yaml")

    assert called.status == 1
    assert "pass --overwrite" in called.err
    assert store.flows.list_keys() == [("order", "1.0.0")]
    assert call("flows", "push", "order.flow.yaml", "--overwrite").out.startswith("replaced")
    assert store.flows.load_flow("order", "1.0.0").description == "Another."


def test_files_are_pushed_all_or_none(call: Call, desk: Path, store: SqlStore):
    """CLI: what cannot be stored, or is there twice, is told before anything is written."""
    text = (desk / "other.flow.yaml").read_text()
    (desk / "long.flow.yaml").write_text(text.replace("name: other", f"name: {'x' * 1300}"))
    (desk / "again.flow.yaml").write_text(text.replace("name: other", "name: order"))

    called = call("flows", "push", "order.flow.yaml", "long.flow.yaml")
    assert (called.status, "[CW-E106] The name of the flow" in called.err) == (1, True), called.err
    assert "where   long.flow.yaml" in called.err

    called = call("flows", "push", "order.flow.yaml", "again.flow.yaml", "--overwrite")
    assert called.status == 1
    assert "Flow 'order' 1.0.0 is in 'order.flow.yaml' and in 'again.flow.yaml'" in called.err
    assert store.flows.list_keys() == []


def test_a_push_does_not_switch_a_disabled_flow_on(call: Call, desk: Path, store: SqlStore):
    """CLI: a status that was set in the store stays, unless the file says another one."""
    call("flows", "push", "order.flow.yaml")
    FlowRegistry(store.flows).set_flow_status("order", "disabled")
    assert call("flows", "push", "order.flow.yaml").out.startswith("unchanged")
    text = (desk / "order.flow.yaml").read_text().replace("An order.", "Another.")
    (desk / "order.flow.yaml").write_text(text)
    assert call("flows", "push", "order.flow.yaml", "--overwrite").out.startswith("replaced")
    kept = store.flows.load_flow("order", "1.0.0")
    assert (kept.description, kept.status.value) == ("Another.", "disabled")
    (desk / "order.flow.yaml").write_text(text + "status: active\n")
    called = call("flows", "push", "order.flow.yaml")
    assert "pass --overwrite" in called.err
    assert call("flows", "push", "order.flow.yaml", "--overwrite").out.startswith("replaced")
    assert store.flows.load_flow("order", "1.0.0").status.value == "active"


def test_a_flow_that_changes_during_a_push_is_left_alone(
    call: Call, desk: Path, store: SqlStore, monkeypatch: pytest.MonkeyPatch
):
    """CLI: of two who change a flow at once one wins, and the other is told what to do in a shell."""
    call("flows", "push", "order.flow.yaml")
    (desk / "order.flow.yaml").write_text((desk / "order.flow.yaml").read_text().replace("An order.", "Another."))
    put_flows = SqlFlows.put_flows

    def late(self, flows):
        FlowRegistry(store.flows).set_flow_status("order", "disabled")
        put_flows(self, flows)

    monkeypatch.setattr(SqlFlows, "put_flows", late)
    called = call("flows", "push", "order.flow.yaml", "other.flow.yaml", "--overwrite")
    assert (called.status, "[CW-E134]" in called.err, "refresh()" in called.err) == (1, True, False)
    assert "fix     look at it with chainweaver flows list, then push again" in called.err
    assert store.flows.list_keys() == [("order", "1.0.0")]


def test_a_damaged_flow_is_named_and_can_be_replaced(call: Call, desk: Path, store: SqlStore):
    """CLI: what the message advises does it; the other flows can be had meanwhile."""
    call("flows", "push", "order.flow.yaml", "other.flow.yaml")
    store._database.run("update chainweaver_flows set definition = '{' where name = 'order'")
    listed = call("flows", "list")
    assert (listed.status, "flow 'order' 1.0.0 in sqlite:///runs.db" in listed.err) == (1, True)
    assert "fix     put it there again: chainweaver flows push FILE --overwrite" in listed.err
    assert call("flows", "pull", "other", "-o", "out").status == 0
    assert call("flows", "push", "order.flow.yaml").status == 1
    assert call("flows", "push", "order.flow.yaml", "--overwrite").out == "replaced   order 1.0.0  order.flow.yaml\n"
    assert call("flows", "list").status == 0


def test_a_flow_with_an_at_in_its_name_can_be_pulled(call: Call, desk: Path):
    """CLI: whatever can be pushed can be named."""
    text = (desk / "other.flow.yaml").read_text()
    for name, version in (("a", "1.0.0"), ("a", "2.0.0"), ("a@b", "1.0.0"), ("a@1.0.0", "3.0.0")):
        named = text.replace("version: 1.0.0", f"version: {version}").replace("name: other", f"name: '{name}'")
        (desk / "one.flow.yaml").write_text(named)
        call("flows", "push", "one.flow.yaml")
    for wanted, found in (
        ("a", ("a", "2.0.0")),
        ("a@1.0.0", ("a", "1.0.0")),
        ("a@b", ("a@b", "1.0.0")),
        ("a@b@1.0.0", ("a@b", "1.0.0")),
        ("a@1.0.0@3.0.0", ("a@1.0.0", "3.0.0")),
    ):
        data = call("flows", "pull", wanted, "-o", "-", "--format", "json").answer["data"]
        assert (data["flow"], data["version"]) == found
    assert "known   1.0.0, 2.0.0" in call("flows", "pull", "a@9.0.0").err


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("push", "nothing.flow.yaml"), 2, "There is no file 'nothing.flow.yaml'"),
        (("push", "broken.flow.yaml"), 1, "[CW-E017]"),
        (("pull", "ordre"), 2, "did you mean 'order'?"),
        (("pull", "order@9.0.0"), 2, "known   1.0.0"),
        (("list", "--status", "sleeping"), 2, "'sleeping' is not one of"),
    ],
)
def test_what_is_wrong_with_flows_is_told(call: Call, desk: Path, arguments: tuple[str, ...], status: int, told: str):
    """CLI: names that are nearly right are suggested."""
    call("flows", "push", "order.flow.yaml")
    called = call("flows", *arguments)
    assert (called.status, told in called.err) == (status, True), called.err


# ---- upgrade


def test_a_deploy_that_breaks_nothing_says_so(call: Call, desk: Path, store: SqlStore):
    """R33, CLI: the run goes on with the version that it has, and could be moved."""
    run = orphan(call, desk, store)
    text = (desk / "order.flow.yaml").read_text().replace("1.0.0", "1.1.0").replace("tool_name: mail", "tool_name: net")
    (desk / "new.flow.yaml").write_text(text)

    called = call("upgrade", "--check", "new.flow.yaml", "--tools", "order.py")

    assert called.status == 0, called.err
    assert called.out.splitlines() == [
        f"compatible       {run}  order 1.0.0",
        "                 to 1.1.0: compatible",
        "",
        "order 1.1.0: 1 live run, 1 compatible",
    ]


@pytest.mark.parametrize(
    ("before", "after", "verdict", "why"),
    [
        ("tool_name: net", "tool_name: net\n    input_mapping: {price: price}", "needs migration",
         "the definition of executed step 'net' changed"),
        ("step_id: net", "step_id: netto", "refuse", "executed step 'net' is no longer part of the flow"),
        ("version: 1.0.0", "version: 2.0.0", "refuse", "flow version changed: 'order' 1.0.0 is gone, there is 2.0.0"),
    ],
)  # fmt: skip
def test_a_deploy_that_breaks_a_run_says_which_and_why(
    call: Call, desk: Path, store: SqlStore, before: str, after: str, verdict: str, why: str
):
    """R33, CLI: before it happens, with exit status 1."""
    run = orphan(call, desk, store)
    text = (desk / "order.flow.yaml").read_text().replace(before, after).replace("[net]", "[netto]")
    (desk / "new.flow.yaml").write_text(text if "netto" in after else text.replace("[netto]", "[net]"))
    store.flows.delete_flow("order", "1.0.0")

    called = call("upgrade", "--check", "new.flow.yaml", "--tools", "order.py")

    assert called.status == 1
    assert called.out.splitlines()[:2] == [f"{verdict:<15}  {run}  order 1.0.0", f"                 {why}"]
    assert f"Run '{run}' cannot be resumed: {why}" in called.err
    data = call("upgrade", "--check", "new.flow.yaml", "--tools", "order.py", "--format", "json").answer["data"]
    assert [(one["run"], one["verdict"]) for one in data["runs"]] == [(run, verdict)]


def test_a_damaged_run_hides_no_other(call: Call, desk: Path, store: SqlStore):
    """R33, CLI: all others are looked at, and the exit status says that not all could be."""
    broken, whole = orphan(call, desk, store), orphan(call, desk, store)
    with sqlite3.connect("runs.db") as connection:
        connection.execute(
            "update chainweaver_steps set outputs = 'x' where run_id = "
            "(select id from chainweaver_runs where trace_id = ?)", (broken,)
        )  # fmt: skip
    connection.close()

    called = call("upgrade", "--check", "order.flow.yaml")
    data = call("upgrade", "--check", "order.flow.yaml", "--format", "json").answer["data"]

    assert called.status == 1
    lines = called.out.splitlines()
    assert lines[:2] == [f"compatible       {whole}  order 1.0.0", f"damaged          {broken}  order 1.0.0"]
    assert lines[-1] == "order 1.0.0: 1 live run, 1 compatible, 1 damaged run nobody can check"
    assert "[CW-E102]" in called.err
    assert ([one["run"] for one in data["runs"]], [one["run"] for one in data["damaged"]]) == ([whole], [broken])


def test_a_deploy_of_a_sub_flow_concerns_the_runs_around_it(call: Call, desk: Path, store: SqlStore):
    """R33, CLI: what runs inside of a run is part of it."""
    (desk / "shop.flow.yaml").write_text(
        "{type: Flow, name: shop, version: 1.0.0, description: '', steps: [{flow_name: order}]}"
    )
    (desk / "down").touch()
    call("run", "shop.flow.yaml", "--tools", "order.py", *GIVEN, *ALL)
    [info] = store.runs.list_runs()
    text = (desk / "order.flow.yaml").read_text().replace("tool_name: net", "tool_name: net\n    on_error: skip")
    (desk / "order.flow.yaml").write_text(text)

    called = call("upgrade", "--check", "order.flow.yaml", "--ended")

    assert called.status == 1
    assert called.out.splitlines()[0] == f"needs migration  {info.trace_id}  shop 1.0.0"
    assert "the definition of executed step '0/net' changed" in called.out


def test_runs_of_other_flows_are_counted_and_not_looked_at(call: Call, desk: Path, store: SqlStore):
    """CLI: whoever deploys a flow need not have the tools of all others."""
    orphan(call, desk, store)
    called = call("upgrade", "--check", "sums.flow.yaml")
    assert called.status == 0
    assert called.out == "sums 1.0.0: 0 live runs, 1 run of other flows not looked at\n"


def test_a_deploy_that_does_not_compile_is_told_first(call: Call, desk: Path, store: SqlStore):
    """CLI: it would break more than the runs that are going on."""
    orphan(call, desk, store)
    called = call("upgrade", "--check", "other.flow.yaml", "--tools", "order.py")
    assert (called.status, "[CW-E101]" in called.err) == (1, True)


def test_ended_runs_are_looked_at_on_demand(call: Call, desk: Path, store: SqlStore):
    """CLI: a run that failed can be gone on with, and is no live one."""
    run = failed_run(call, desk)
    assert "0 live runs" in call("upgrade", "--check", "order.flow.yaml").out
    assert run in call("upgrade", "--check", "order.flow.yaml", "--ended").out
