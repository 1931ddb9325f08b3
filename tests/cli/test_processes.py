"""The command line as a process: missing extras, signals, pipes, alphabets, terminals."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHAINWEAVER = [sys.executable, "-m", "chainweaver.cli"]
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and terminals")

WAITS = """\
import time
from chainweaver import tool

@tool
def quick() -> int:
    return 1

@tool
def wait(seconds: float = 30.0) -> int:
    print("waiting", flush=True)
    time.sleep(seconds)
    return 1
"""
WAITING = "{type: Flow, name: waits, version: 1.0.0, description: '', steps: [{tool_name: quick}, {tool_name: wait}]}\n"


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "NO_COLOR", "COLUMNS")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "TERM": "xterm-256color", **more}


@pytest.fixture
def waits(tmp_path: Path) -> Path:
    (tmp_path / "waits.py").write_text(WAITS, encoding="utf-8")
    (tmp_path / "waits.flow.yaml").write_text(WAITING, encoding="utf-8")
    return tmp_path


def finished(*args: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CHAINWEAVER, *args], cwd=cwd, env=environment(**more), capture_output=True, encoding="utf-8", check=False
    )


@pytest.mark.parametrize("module", ["chainweaver", "chainweaver.cli"])
def test_the_package_itself_can_be_run(tmp_path: Path, module: str):
    """CLI: `python -m chainweaver` is the command, also where no script is installed."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"],
        cwd=tmp_path, env=environment(), capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.startswith("chainweaver "), done.stderr) == (0, True, "")


def test_without_its_extra_the_command_line_names_it(tmp_path: Path):
    """CLI: typer missing is a message with the extra, exit status 2; the envelope works without typer too."""
    code = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer': raise ModuleNotFoundError(name, name=name)\n"
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name == 'typer' else real(name, package)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "from chainweaver.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )

    def hidden(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *args], cwd=tmp_path, env=environment(), capture_output=True, text=True
        )

    told = hidden("doctor")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.splitlines() == [
        "chainweaver: [CW-E105] The command line needs the extra 'cli'.",
        "  why     not installed: typer",
        "  fix     pip install 'chainweaver[cli]'",
    ]
    assert json.loads(hidden("doctor", "--format", "json").stdout)["errors"][0]["code"] == "CW-E105"


def test_the_package_of_the_command_line_loads_neither_typer_nor_rich(tmp_path: Path):
    """Import: `chainweaver` and even `chainweaver.cli` are free of the extra."""
    code = "import sys, chainweaver, chainweaver.cli; print({'typer', 'rich', 'yaml'} & set(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert shown.stdout == "set()\n"


@posix
@pytest.mark.parametrize("options", [(), ("--concurrency", "2")])
def test_an_interrupt_ends_the_run_cleanly_with_130(waits: Path, options: tuple[str, ...]):
    """CLI: Ctrl-C shows how far the run came; no traceback, and no waiting for the tool."""
    process = subprocess.Popen(
        [*CHAINWEAVER, "run", "waits", *options],
        cwd=waits,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while "waiting" not in process.stdout.readline():
        assert process.poll() is None

    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)

    assert (process.returncode, err) == (130, "chainweaver: [CW-E012] Interrupted.\n")
    assert "waits 1.0.0: cancelled after 1 of 2 steps" in out
    assert time.monotonic() - began < 10


@posix
def test_an_interrupt_in_json_is_one_document(waits: Path):
    """CLI: a program that reads the answer can tell, and sees the steps that ran."""
    process = subprocess.Popen(
        [*CHAINWEAVER, "run", "waits", "--format", "json"],
        cwd=waits,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "waiting" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    answer = json.loads(process.communicate(timeout=20)[0])
    assert (process.returncode, answer["status"], answer["data"]["status"]) == (130, "error", "cancelled")
    assert [step["status"] for step in answer["data"]["steps"]] == ["ok", "cancelled"]


def test_a_terminal_with_a_small_alphabet_gets_escapes(waits: Path):
    """CLI: arrows are spelled out, other signs escaped; nothing fails to print."""
    drawn = finished("viz", "waits.flow.yaml", cwd=waits, PYTHONIOENCODING="ascii")
    assert (drawn.returncode, drawn.stdout) == (0, "[quick] -> [wait]\n")

    (waits / "signs.flow.yaml").write_text(
        "{type: Flow, name: größe, version: 1.0.0, description: '', steps: [{tool_name: quick}]}", encoding="utf-8"
    )
    ran = finished("run", "signs.flow.yaml", "--tools", "waits.py", cwd=waits, PYTHONIOENCODING="ascii")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(r"gr\xf6\xdfe 1.0.0, 1 step")


@posix
def test_a_reader_that_goes_away_ends_the_program_quietly(waits: Path):
    """CLI: `chainweaver schema | head -1`."""
    process = subprocess.Popen(
        [*CHAINWEAVER, "schema"], cwd=waits, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=20) == 1


def in_terminal(args: list[str], cwd: Path, columns: int, **more: str) -> tuple[int, str]:
    """Exit status and everything that a command writes to a terminal of this width."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [*CHAINWEAVER, *args], cwd=cwd, env=environment(**more), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    while True:
        ready, _, _ = select.select([ours], [], [], 20)
        assert ready, "the program writes nothing any more"
        try:
            part = os.read(ours, 65_536)
        except OSError:  # Linux says so when the other end was closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return process.wait(timeout=20), shown.decode("utf-8")


@posix
def test_a_terminal_sees_the_step_that_runs_and_a_line_for_each_that_is_over(waits: Path):
    """CLI: the line of the running step is redrawn and gone in the end, the cursor is back."""
    status, shown = in_terminal(["run", "waits", "--input", '{"seconds": 0.4}'], waits, 80)
    assert status == 0
    assert "\x1b[2m1/2\x1b[0m  quick  \x1b[32mok\x1b[0m" in shown
    assert "\x1b[?25l" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    before_the_end = shown[: shown.index("2/2")]
    assert "0:00:00" in before_the_end
    assert "time per step" in shown


@posix
@pytest.mark.parametrize("more", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colour_can_be_done_without(waits: Path, more: dict[str, str]):
    """CLI: NO_COLOR and dumb terminals are respected."""
    _, shown = in_terminal(["run", "waits", "--input", '{"seconds": 0.01}'], waits, 80, **more)
    assert "\x1b[32m" not in shown
    assert "waits 1.0.0: ok, 2 steps" in shown


@posix
def test_a_narrow_terminal_loses_no_text(waits: Path):
    """CLI: cells are folded, numbers stay whole."""
    _, shown = in_terminal(["run", "waits", "--input", '{"seconds": 0.01}'], waits, 30, NO_COLOR="1")
    lines = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", shown).splitlines()
    table = lines[lines.index("time per step") + 1 :]
    table = table[: table.index("")]
    assert all(len(line) <= 30 for line in table)
    assert sum("ms" in line for line in table) == 2
    assert "…" not in shown
