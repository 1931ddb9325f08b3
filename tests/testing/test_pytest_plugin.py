"""The pytest plugin in sessions of its own: found by its entry point, silent until asked, strict markers kept."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

# Other plugins of this environment make a session take three times as long.
OTHERS = ("asyncio", "anyio", "benchmark", "hypothesispytest", "pytest_cov", "xdist", "xdist.looponfail")

FLOW = """
import pytest
from chainweaver import Flow, FlowExecutor, FlowStep, tool

@tool
def price(article: str) -> float:
    raise ConnectionError("the shop is closed")

order = Flow(name="order", description="Price of an order.", steps=[FlowStep(tool_name="price")])
"""


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A project whose environment has this package installed, as far as plugins can tell."""
    about = tmp_path / "site" / "chainweaver-0.1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: chainweaver\nVersion: 0.1.0\n")
    # The very entry point of the project file.
    declared = re.search(
        r"^\[project\.entry-points\.pytest11\]\n(.+)$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    assert declared is not None
    (about / "entry_points.txt").write_text(f"[pytest11]\n{declared[1].replace(chr(34), '')}\n")
    project = tmp_path / "project"
    project.mkdir()
    (project / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers --strict-config -p no:cacheprovider\n")
    return project


def session(
    desk: Path, *arguments: str, others: tuple[str, ...] = (), **files: str
) -> subprocess.CompletedProcess[str]:
    """A pytest session of its own over these files; `others` are the plugins that may be loaded beside ours."""
    for name, text in files.items():
        (desk / f"{name}.py").write_text(text)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    env["PYTHONPATH"] = os.pathsep.join([str(desk.parent / "site"), str(ROOT)])
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    blocked = [f"-pno:{name}" for name in OTHERS if name not in others]
    command = [sys.executable, "-m", "pytest", *blocked, *arguments]
    return subprocess.run(command, cwd=desk, env=env, capture_output=True, text=True, timeout=120, check=False)


def passed(done: subprocess.CompletedProcess[str], count: int) -> bool:
    return done.returncode == 0 and f"{count} passed" in done.stdout


def test_the_fixture_makes_runners_and_closes_them(desk: Path):
    """R40: `flow_runner` is a factory; what it made is closed when the test is over, however it ended."""
    done = session(
        desk,
        "-q",
        test_it=FLOW
        + """
closed = []

def test_running(flow_runner):
    runner = flow_runner(order, tools=[price], fakes={"price": 2.5})
    assert runner.run({"article": "tea"}).final_output["price"] == 2.5

@pytest.fixture
def watched(monkeypatch):
    from chainweaver.testing import FlowTestRunner
    monkeypatch.setattr(FlowTestRunner, "close", lambda self: closed.append(self.flow.name))

@pytest.mark.xfail(strict=True)
def test_failing(watched, flow_runner):
    for name in ("a", "b"):
        flow_runner(order.model_copy(update={"name": name}), tools=[price])
    assert False

def test_closed():
    assert closed == ["b", "a"]
""",
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed, 1 xfailed" in done.stdout


def test_the_marker_names_a_flow(desk: Path):
    """api.md: by the path of a file, beside the test or below the root, or by a name; the nearest marker counts."""
    (desk / "flows").mkdir()
    (desk / "suite").mkdir()
    flow = '{"type": "Flow", "format_version": "1", "name": "%s", "description": "", "steps": [{"tool_name": "price"}]}'
    (desk / "flows" / "far.flow.json").write_text(flow % "far")
    (desk / "suite" / "near.flow.json").write_text(flow % "near")
    (desk / "suite" / "test_it.py").write_text(
        FLOW
        + """
pytestmark = pytest.mark.flow("flows/far.flow.json")

def test_far(flow_runner):
    assert flow_runner(fakes={"price": 1}).run({}).flow_name == "far"

@pytest.mark.flow("near.flow.json")
def test_near(flow_runner):
    assert flow_runner(fakes={"price": 1}).run({}).flow_name == "near"

@pytest.mark.flow("order")
def test_name(flow_runner):
    executor = FlowExecutor(tools=[price], flows=[order])
    assert flow_runner(executor=executor, fakes={"price": 1}).run({"article": "tea"}).flow_name == "order"

@pytest.mark.flow
def test_bare(flow_runner):
    assert flow_runner().flow.name == "far"

@pytest.mark.flow("order")
def test_argument(flow_runner):
    assert flow_runner(order.model_copy(update={"name": "other"})).flow.name == "other"
"""
    )
    done = session(desk, "-q")
    assert passed(done, 5), done.stdout


def test_what_the_marker_does_not_say_is_told(desk: Path):
    """api.md: no flow, and no file, are errors that say what to do."""
    done = session(
        desk,
        "-q",
        test_it=FLOW
        + """
def test_none(flow_runner):
    flow_runner()

@pytest.mark.flow("missing.flow.json")
def test_missing(flow_runner):
    flow_runner()

@pytest.mark.flow(3)
def test_number(flow_runner):
    flow_runner()
""",
    )
    assert "3 failed" in done.stdout
    assert "@pytest.mark.flow takes the name or path of a flow, or a flow, not 3." in done.stdout
    assert "flow_runner() runs which flow? Pass one, or mark the test" in done.stdout
    assert "there is no flow file 'missing.flow.json'; looked for" in done.stdout


def test_the_marker_is_registered_and_selects(desk: Path):
    """api.md: --strict-markers knows it, --markers shows it, -m selects by it."""
    done = session(
        desk, "-q", "-m", "flow", test_it=FLOW + "@pytest.mark.flow\ndef test_a(): pass\ndef test_b(): pass\n"
    )
    assert passed(done, 1), done.stdout
    assert "@pytest.mark.flow(name_or_path=None)" in session(desk, "--markers").stdout


def test_a_session_that_does_not_ask_loads_nothing(desk: Path):
    """Import: with the plugin installed, neither rooms nor pydantic nor hypothesis come along."""
    done = session(
        desk,
        "-q",
        test_it="""
import sys

def test_it():
    ours = sorted(name for name in sys.modules if name.partition(".")[0] in ("chainweaver", "pydantic"))
    assert ours == ["chainweaver", "chainweaver._lazy", "chainweaver.testing", "chainweaver.testing.pytest_plugin"]
""",
    )
    assert passed(done, 1), done.stdout


def test_conformance_classes_show_both_sides(desk: Path):
    """Conformance: three lines in a project of somebody else; a clause that does not hold says what it compared."""
    done = session(
        desk,
        "-q",
        test_it="""
from chainweaver import InMemoryStepCache
from chainweaver.testing import StepCacheConformance

class Losing(InMemoryStepCache):
    def set(self, key, output):
        super().set(key, dict(list(output.items())[:1]))

class TestGood(StepCacheConformance):
    def make_store(self):
        return InMemoryStepCache()

class TestLosing(StepCacheConformance):
    def make_store(self):
        return Losing()
""",
    )
    assert "AssertionError: a hit equals what was set" in done.stdout
    assert "assert {'total': 3} == {" in done.stdout
    assert "TestGood" not in done.stdout.partition("short test summary")[2]


def test_coverage_and_xdist_go_on_as_before(desk: Path):
    """The plugin keeps out of the way of those that measure and distribute."""
    pytest.importorskip("pytest_cov")
    (desk / "shop.py").write_text("def add(a, b):\n    return a + b\n")
    others = ("pytest_cov", "xdist", "xdist.looponfail", "asyncio", "anyio", "hypothesispytest")
    arguments = ("-q", "--cov=shop", "--cov-report=term")
    done = session(desk, *arguments, others=others, test_it=FLOW + """
from shop import add

@pytest.mark.flow
def test_it(flow_runner):
    runner = flow_runner(order, tools=[price], fakes={"price": add(1, 2)})
    assert runner.run({"article": "tea"}).final_output["price"] == 3
""")  # fmt: skip
    assert passed(done, 1), done.stdout
    assert re.search(r"shop\.py\s+2\s+0\s+100%", done.stdout), done.stdout
