"""`viz`, `explain`, `schema`, `doctor`, and what all commands have in common."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from chainweaver import flow_schema_json, flow_to_ascii, flow_to_dot, flow_to_mermaid, load_flow_file
from chainweaver.cli import doctor as doctor_module, main
from chainweaver.cli._answer import Answer, Fault, envelope
from chainweaver.cli._app import build, command_names
from tests.cli.conftest import Call


@pytest.mark.parametrize(
    ("kind", "draw"), [("ascii", flow_to_ascii), ("mermaid", flow_to_mermaid), ("dot", flow_to_dot)]
)
def test_viz_draws_what_the_library_draws(call: Call, kind: str, draw):
    """CLI: three drawings, without tools."""
    drawn = draw(load_flow_file("graph.flow.json"))
    assert call("viz", "graph.flow.json", "--format-out", kind).out == f"{drawn}\n"
    assert call("viz", "graph.flow.json", "--format-out", kind, "--format", "json").answer["data"] == {
        "drawing": kind,
        "text": drawn,
    }


@pytest.mark.parametrize(("file", "status"), [("nix.flow.yaml", 2), ("broken.flow.yaml", 1)])
def test_viz_of_no_flow_is_refused(call: Call, file: str, status: int):
    """CLI: missing 2, invalid 1, nothing on stdout."""
    called = call("viz", file)
    assert (called.status, called.out) == (status, "")


def test_schema_is_the_published_one(call: Call):
    """CLI: `chainweaver schema > schemas/flow.schema.json` writes the file that editors use."""
    assert json.loads(call("schema").out) == json.loads(flow_schema_json())
    assert call("schema").out == flow_schema_json().rstrip("\n") + "\n"
    assert call("schema", "--format", "json").answer["data"] == json.loads(flow_schema_json())


def test_explain_shows_where_inputs_come_from_and_runs_nothing(call: Call):
    """CLI: sources step by step, types of the output."""
    called = call("explain", "sums", "--input", '{"rows": [1]}')
    assert called.status == 0
    assert "dividing" not in called.out
    lines = called.out.splitlines()
    assert "0 total   rows   context['rows']   input" in lines
    assert "1 divide  total  context['total']  0 total" in lines
    assert "divide  float" in lines


def test_explain_shows_what_is_validated_once_and_why_the_rest_is_not(call: Call):
    """CLI, R14: a table of its own, for flows that validate once."""
    path = Path("sums.flow.yaml")
    assert "validated once" not in call("explain", "sums", "--input", '{"rows": [1]}').out
    path.write_text(path.read_text().replace("steps:", "validation: once\nsteps:", 1))
    lines = call("explain", "sums", "--input", '{"rows": [1]}').out.splitlines()

    assert "1 divide  total  from 0 total" in lines
    assert any(line.startswith("0 total   rows   no: 'rows' comes from outside") for line in lines)


def test_explain_fails_when_an_input_has_no_source(call: Call):
    """CLI: the step, the key and the line of the file."""
    called = call("explain", "sums")
    assert called.status == 1
    assert "context['rows'] (UNRESOLVED)" in called.out
    assert called.err.splitlines()[:2] == [
        "chainweaver: [CW-E005] Input mapping of step 'total' reads unknown key 'rows'.",
        "  where   sums.flow.yaml:6",
    ]
    answer = call("explain", "sums", "--format", "json").answer
    assert answer["data"]["all_resolvable"] is False
    assert answer["data"]["steps"][0]["unresolved_keys"] == ["rows"]


def test_explain_tells_compile_errors(call: Call):
    """CLI: a flow that does not compile cannot end well."""
    called = call("explain", "typo.flow.yaml", "--tools", "sums.py")
    assert (called.status, "missing_tool" in called.err) == (1, True)


def test_doctor_shows_versions_and_is_content_here(call: Call):
    """CLI: everything that a report of a bug needs."""
    called = call("doctor")
    assert (called.status, called.err) == (0, "")
    for word in ("pydantic", "anyio", "typer", "pyyaml", sys.executable, "everything is fine"):
        assert word in called.out
    data = call("doctor", "--format", "json").answer["data"]
    assert data["python"] == ".".join(map(str, sys.version_info[:3]))
    assert data["packages"]["pydantic"]
    assert all(data["writable"].values())


def test_doctor_finds_plugins_that_cannot_be_loaded(call: Call, monkeypatch: pytest.MonkeyPatch):
    """CLI: each with its entry point and the reason; exit status 1."""
    points = [
        EntryPoint("bad", "no_such_module:flows", "chainweaver.flows"),
        EntryPoint("good", "json:loads", "chainweaver.tools"),
    ]
    monkeypatch.setattr(
        doctor_module, "entry_points", lambda group: [point for point in points if point.group == group]
    )
    called = call("doctor")
    assert called.status == 1
    assert "[CW-E022] Plugin 'chainweaver.flows:bad' cannot be loaded: ModuleNotFoundError" in called.err
    assert "chainweaver.tools:good  ok" in called.out
    assert "1 problem" in called.out


def test_doctor_finds_a_package_that_is_not_installed(call: Call, monkeypatch: pytest.MonkeyPatch):
    """CLI: a broken installation is named before it fails elsewhere."""
    monkeypatch.setattr(doctor_module, "CORE", ("pydantic", "no-such-package"))
    called = call("doctor")
    assert called.status == 1
    assert "no-such-package  missing" in called.out
    assert "[CW-E105]" in called.err


# ---- what all commands have in common


def test_every_module_without_an_underscore_is_a_command(call: Call):
    """CLI: a new command is a new file."""
    names = [
        "attest",
        "check",
        "diff",
        "doctor",
        "explain",
        "fuzz",
        "replay",
        "run",
        "schema",
        "upgrade",
        "validate",
        "viz",
    ]
    groups = ["flows", "runs"]
    assert command_names() == sorted(names + groups)
    assert sorted(str(command.name) for command in build().registered_commands) == names
    assert sorted(str(group.name) for group in build().registered_groups) == groups


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("attest", ["sums", "--input", '{"rows": [1]}', "--limit", "1"]),
        ("check", ["."]),
        ("diff", ["nix.json", "nix.json"]),
        ("doctor", []),
        ("explain", ["sums"]),
        ("fuzz", ["sums", "--examples", "2", "--limit", "1"]),
        ("replay", ["nix.json"]),
        ("run", ["sums"]),
        ("schema", []),
        ("validate", ["sums.flow.yaml"]),
        ("viz", ["sums.flow.yaml"]),
    ],
)
def test_every_command_answers_in_the_same_envelope(call: Call, command: str, args: list[str]):
    """CLI: schema_version, status, data, errors; the status agrees with the exit status."""
    called = call(command, *args, "--format", "json")
    answer = called.answer
    assert list(answer) == ["schema_version", "status", "data", "errors"]
    assert answer["schema_version"] == "1"
    assert answer["status"] == ("error" if called.status else "ok")
    assert bool(answer["errors"]) == bool(called.status)
    assert all(set(error) == {"code", "message"} and error["code"].startswith("CW-E") for error in answer["errors"])


@pytest.mark.parametrize(
    ("args", "sentence", "fix"),
    [
        (["run"], "Missing argument 'FILE|NAME'.", "chainweaver run --help"),
        (["frob"], "No such command 'frob'.", "chainweaver --help"),
        (["run", "sums", "--concurrency", "0"], "Invalid value for '--concurrency'", "chainweaver run --help"),
        (["run", "sums", "--colour"], "No such option", "chainweaver run --help"),
    ],
)
def test_a_wrong_command_line_is_told_in_the_same_form(
    args: list[str], sentence: str, fix: str, capsys: pytest.CaptureFixture[str]
):
    """CLI: exit status 2, a message and where the help is; as JSON when that was asked for."""
    assert main(args) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.startswith(f"chainweaver: [CW-E106] {sentence}")) == ("", True)
    assert f"  fix     {fix}" in shown.err.splitlines()

    assert main([*args, "--format", "json"]) == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out)["errors"][0]["message"].startswith(sentence)


def test_help_and_version_need_no_command(capsys: pytest.CaptureFixture[str]):
    """CLI: called alone it shows the commands."""
    import chainweaver

    assert (main([]), main(["--version"])) == (0, 0)
    shown = capsys.readouterr().out
    assert "validate" in shown
    assert shown.endswith(f"chainweaver {chainweaver.__version__}\n")


def test_an_unexpected_error_is_a_message_too(call: Call, monkeypatch: pytest.MonkeyPatch):
    """CLI: no traceback unless asked for."""

    def fails():
        raise RuntimeError("surprise")

    monkeypatch.setattr("chainweaver.cli.doctor._plugins", fails)
    called = call("doctor")
    assert (called.status, called.out) == (1, "")
    assert called.err.startswith("chainweaver: [CW-E000] Unexpected RuntimeError: surprise.\n")
    assert "Traceback" not in called.err


class Odd:
    def __repr__(self) -> str:
        raise ValueError


def test_the_envelope_is_json_whatever_the_values_are() -> None:
    """CLI: NaN, bytes, circles, lone surrogates and objects without a repr are all carried."""
    circle: list[object] = []
    circle.append(circle)
    for value in (float("inf"), b"\xff", circle, "\udc80", Odd(), {1: {2, 3}}, Path("x"), 10**5000):
        answer = Answer(data={"value": value}, faults=(Fault("CW-E000", "\udc80"),), exit_code=1)
        assert json.loads(envelope(answer))["status"] == "error"
        assert envelope(answer).isascii()


def test_one_text_that_cannot_be_encoded_does_not_spoil_the_envelope():
    """CLI: half of a surrogate pair is escaped where it stands; all else in the data stays data."""
    written = json.loads(envelope(Answer(data={"name": "caf\udce9", "rows": [1]}, faults=())))
    assert written["data"] == {"name": "caf\\udce9", "rows": [1]}
