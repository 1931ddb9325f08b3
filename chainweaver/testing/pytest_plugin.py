"""The pytest plugin: the fixture `flow_runner` and the marker `flow`.

Loaded into every test session where chainweaver is installed, wanted or not, so it imports nothing of this package
before a test asks for the fixture. What a runner does is in `runner`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from chainweaver.flow import AnyFlow
    from chainweaver.testing.runner import FlowTestRunner

MARKER = (
    "flow(name_or_path=None): the test is about a flow. With a name, or with the path of a flow file relative to the "
    "file of the test or to the root directory, flow_runner() without a flow runs that one."
)
SUFFIXES = (".json", ".yaml", ".yml")

if "chainweaver.testing.conformance" not in sys.modules:
    # Clauses that do not hold then show both sides, as in a test of one's own.
    pytest.register_assert_rewrite("chainweaver.testing.conformance")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, so that `--strict-markers` knows it."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def flow_runner(request: pytest.FixtureRequest) -> Iterator[Callable[..., FlowTestRunner]]:
    """Makes flow runners that are closed at the end of the test.

    Called as `FlowTestRunner`. Without a flow it takes the one that `@pytest.mark.flow("name or path")` says: the file
    at the path, or the flow that `registry` or `executor` has under the name.
    """
    from chainweaver.testing.runner import FlowTestRunner

    with ExitStack() as runners:

        def make(flow: AnyFlow | str | None = None, **options: Any) -> FlowTestRunner:
            runner = FlowTestRunner(marked_flow(request) if flow is None else flow, **options)
            return runners.enter_context(runner)

        yield make


def marked_flow(request: pytest.FixtureRequest) -> AnyFlow | str:
    """The flow of the marker that is nearest to the test: read from its file, or its name.

    Raises:
        pytest.UsageError: No marker says which flow, it names none, or its file is not there.
    """
    named: Any = None
    for marker in request.node.iter_markers("flow"):
        if marker.args:
            named = marker.args[0]
            break
    if named is None:
        raise pytest.UsageError(
            f"{request.node.nodeid}: flow_runner() runs which flow? Pass one, or mark the test: "
            '@pytest.mark.flow("name or path of a flow").'
        )
    if not isinstance(named, str):
        if not hasattr(named, "steps"):
            raise pytest.UsageError(
                f"{request.node.nodeid}: @pytest.mark.flow takes the name or path of a flow, or a flow, not {named!r}."
            )
        return named  # type: ignore[no-any-return]  # a flow itself
    if not named.endswith(SUFFIXES):
        return named
    from chainweaver.formats import load_flow_file

    return load_flow_file(path_of(named, request))


def path_of(named: str, request: pytest.FixtureRequest) -> Path:
    """Where the file of a marker is: beside the test, or below the root directory of the session."""
    places = [request.path.parent / named, request.config.rootpath / named]
    for place in places:
        if place.is_file():
            return place
    looked = " and ".join(str(place) for place in dict.fromkeys(places))
    raise pytest.UsageError(f"{request.node.nodeid}: there is no flow file '{named}'; looked for {looked}.")
