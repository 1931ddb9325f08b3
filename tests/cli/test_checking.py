"""`chainweaver validate` and `chainweaver check`: everything that is wrong, with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Call


def test_a_sound_file_is_read_and_says_how_to_compile_it(call: Call):
    """CLI: without tools only the form is known, and the line says so."""
    called = call("validate", "sums.flow.yaml")
    assert (called.status, called.err) == (0, "")
    assert called.out.splitlines() == [
        "ok       sums.flow.yaml  sums 1.0.0, 2 steps, read only: --tools MODULE compiles it as well",
        "1 flow file: 1 ok, 0 invalid, 0 warnings",
    ]


def test_nothing_is_imported_that_was_not_named(call: Call, project: Path):
    """CLI: checking a directory of strangers' files does not run their code."""
    (project / "sums.py").write_text("raise SystemExit('ran')\n", encoding="utf-8")
    assert call("validate", "sums.flow.yaml").status == 0
    assert "ran" not in call("check", ".").out


def test_all_faults_of_all_files_are_told(call: Call):
    """CLI: one line a file, every error on stderr with file and line."""
    called = call("validate", "sums.flow.yaml", "typo.flow.yaml", "broken.flow.yaml", "--tools", "sums.py")

    assert called.status == 1
    assert [line.split()[:2] for line in called.out.splitlines() if not line.startswith(" ")] == [
        ["ok", "sums.flow.yaml"],
        ["invalid", "typo.flow.yaml"],
        ["invalid", "broken.flow.yaml"],
        ["3", "flow"],
    ]
    assert "[CW-E101] typo.flow.yaml:6: step '0' (totl), missing_tool" in called.err
    assert "[CW-E101] typo.flow.yaml:7: step '1' (divide), unknown_target_key" in called.err
    assert "[CW-E017] Flow definition 'broken.flow.yaml' is not valid: line 2, column 1" in called.err


def test_json_has_every_finding_with_its_facts(call: Call):
    """CLI: programs get step, tool, field and kind apart."""
    called = call("validate", "typo.flow.yaml", "--tools", "sums.py", "--format", "json")

    answer = called.answer
    [file] = answer["data"]["files"]
    assert (called.status, answer["status"], file["status"], file["compiled"]) == (1, "error", "error", True)
    first = file["errors"][0]
    assert (first["place"], first["step"], first["tool"]) == ("typo.flow.yaml:6", "0", "totl")
    assert {error["issue_type"] for error in file["errors"]} >= {"missing_tool", "unknown_target_key"}
    assert len(answer["errors"]) == len(file["errors"])


def test_a_missing_file_among_others_ends_with_2(call: Call):
    """CLI: the others are checked all the same."""
    called = call("validate", "sums.flow.yaml", "nix.flow.yaml")
    assert called.status == 2
    assert "ok       sums.flow.yaml" in called.out
    assert "There is no file 'nix.flow.yaml'." in called.err


def test_hints_about_speed_are_counted_and_listed_on_request(call: Call):
    """CLI: dozens of hints do not hide a warning; JSON has them anyway."""
    counted = call("validate", "sums.flow.yaml", "--tools", "sums.py")
    assert "native_copy" not in counted.out
    assert "0 warnings, 1 hint (--hints shows them)" in counted.out

    listed = call("validate", "sums.flow.yaml", "--tools", "sums.py", "--hints")
    assert "  hint     sums.flow.yaml:6: step '0' (total), native_copy:" in listed.out
    [file] = call("validate", "sums.flow.yaml", "--tools", "sums.py", "--format", "json").answer["data"]["files"]
    assert [one["issue_type"] for one in file["warnings"]] == ["native_copy"]


def test_warnings_are_shown_below_their_file_and_are_no_failure(call: Call, project: Path):
    """CLI: exit status 0 with warnings."""
    (project / "sums.flow.yaml").write_text(
        (project / "sums.flow.yaml").read_text().replace("tool_name: divide", "tool_name: total"), encoding="utf-8"
    )
    called = call("validate", "sums.flow.yaml", "--tools", "sums.py")
    assert called.status == 0
    assert "  warning  sums.flow.yaml:7: step '1' (total), context_collision:" in called.out


@pytest.mark.parametrize("tools", [(), ("--tools", "sums.py")])
def test_a_graph_with_a_cycle_is_invalid_with_and_without_tools(call: Call, project: Path, tools: tuple[str, ...]):
    """R15: what is no DAG is refused whether or not tools are known."""
    (project / "cycle.flow.yaml").write_text(
        "{type: DAGFlow, name: cycle, version: 1.0.0, description: '', steps: ["
        "{step_id: a, tool_name: total, depends_on: [b]}, {step_id: b, tool_name: total, depends_on: [a]}]}",
        encoding="utf-8",
    )
    called = call("validate", "cycle.flow.yaml", *tools)
    assert (called.status, "CW-E010" in called.err, "cycle.flow.yaml" in called.err) == (1, True, True)


def test_check_finds_flow_files_at_any_depth_but_not_in_hidden_directories(call: Call, project: Path):
    """CLI: *.flow.json, *.flow.yaml and *.flow.yml, ordered by name."""
    for name in ("deep/er/a.flow.yml", ".venv/b.flow.yaml", "deep/config.yaml"):
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((project / "sums.flow.yaml").read_text(), encoding="utf-8")

    files = call("check", ".", "--format", "json").answer["data"]["files"]

    assert [Path(file["file"]).as_posix() for file in files] == [
        "broken.flow.yaml",
        "graph.flow.json",
        "sums.flow.yaml",
        "typo.flow.yaml",
        "deep/er/a.flow.yml",
    ]
    assert call("check", ".").status == 1
    assert call("check", "deep").status == 0


def test_check_of_a_directory_without_flow_files_says_so(call: Call, project: Path):
    """CLI: nothing found is no failure, and is no silence."""
    (project / "empty").mkdir()
    called = call("check", "empty")
    assert (called.status, called.out) == (0, "0 flow files: 0 ok, 0 invalid, 0 warnings\n")


@pytest.mark.parametrize(
    ("directory", "sentence"),
    [("nix", "Directory 'nix' does not exist."), ("sums.py", "Directory 'sums.py' is no directory.")],
)
def test_check_of_what_is_no_directory_is_refused(call: Call, directory: str, sentence: str):
    """CLI: the command line names what cannot be checked."""
    called = call("check", directory)
    assert (called.status, called.err) == (2, f"chainweaver: [CW-E106] {sentence}\n")


def test_a_directory_in_place_of_a_file_is_refused(call: Call, project: Path):
    """CLI: what cannot be read ends with 2, like what cannot be found."""
    (project / "dir.flow.yaml").mkdir()
    called = call("validate", "dir.flow.yaml")
    assert (called.status, "File 'dir.flow.yaml' cannot be read: Is a directory." in called.err) == (2, True)
