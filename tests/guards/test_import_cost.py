"""What an import costs: whole processes, in pairs, against importing pydantic alone; and what must not come along."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = "from chainweaver import FlowExecutor, Flow, tool"
THEIRS = "import pydantic; pydantic.BaseModel"
HEAVY = ("asyncio", "anyio", "typer", "rich", "yaml", "sqlite3", "numpy")
PAIRS = 7
LIMIT = 1.5


def run(code: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env=env)


def seconds(code: str, env: dict[str, str]) -> float:
    """Processor time of one whole process: an import waits for nothing, and wall time is mostly what else runs here."""
    started = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env)
    _, status, used = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    assert started.returncode == 0
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("code", [OURS, "import chainweaver"])
def test_nothing_heavy_comes_along(code):
    """Import: no event loop, CLI, optional extra or database is loaded by the names that everybody needs."""
    loaded = run(f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])").stdout.split()
    assert loaded == []


def test_the_bare_root_loads_no_room_at_all():
    """Import: `import chainweaver` names the rooms and opens none."""
    shown = run("import sys, chainweaver\nprint(*[name for name in sys.modules if name.startswith('chainweaver.')])")
    assert shown.stdout.split() == ["chainweaver._lazy"]


@pytest.mark.slow
def test_importing_the_main_names_costs_at_most_half_as_much_again_as_pydantic(tmp_path):
    """Import: median of whole processes, started in pairs so that a busy machine hits both sides alike."""
    # An installed package has its byte code; a checkout on a machine that writes none would be compiled each time.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    seconds(OURS, env), seconds(THEIRS, env)

    pairs = [(seconds(OURS, env), seconds(THEIRS, env)) for _ in range(PAIRS)]

    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    assert ratio <= LIMIT, f"{ratio:.2f} x pydantic; pairs: {pairs}"
