"""Carrying a run for a command: to whatever end, and with the place of what went wrong.

Used by `run` and `replay`. Shows steps as they end, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

from chainweaver.cli._durable import handing_back
from chainweaver.cli._loading import Source
from chainweaver.cli._progress import first_failed, is_map, step_lines
from chainweaver.cli._ready import Ready
from chainweaver.cli._screen import Screen
from chainweaver.exceptions import ChainWeaverError, CommandLineError, ToolError
from chainweaver.executor import FlowExecutor
from chainweaver.results import ExecutionResult


@dataclass(slots=True)
class Outcome:
    """What became of a run.

    Attributes:
        result: The result, as far as the run came; None when nothing was started.
        error: What it failed with.
    """

    result: ExecutionResult | None = None
    error: ChainWeaverError | None = None
    interrupted: bool = False


def carried(
    executor: FlowExecutor, screen: Screen | None, work: Callable[[], object], *, durable: bool = False
) -> Outcome:
    """Run a flow to its end, however it ends.

    Args:
        work: Has the executor run it, and raises what it failed with.
        durable: Somebody else can go on with it: SIGTERM hands it back instead of ending this process at once.
    """
    outcome = Outcome()
    signals = handing_back(executor) if durable else nullcontext()
    with executor, signals, step_lines(screen) as kept:
        executor.add_middleware(kept)
        try:
            work()
        except ChainWeaverError as exc:
            outcome.error = exc
        except KeyboardInterrupt:
            outcome.interrupted = True
        except SystemExit as exc:
            outcome.error = CommandLineError(
                f"A tool ended the program: SystemExit: {exc}",
                invalid=True,
                fix="raise an exception where it calls sys.exit()",
            )
            outcome.error.__cause__ = exc
    outcome.result = kept.result
    return outcome


def place(error: ChainWeaverError, ready: Ready, result: ExecutionResult | None, *, hint: bool) -> None:
    """Tell an error which step of which file it is about, and how to learn more."""
    where = None if result is None else _where(ready, result)
    if where is not None:
        error.where = where  # which says more than what the run knew: it has not seen any file
    source = ready.source
    error.with_facts(where=f"flow '{source.flow.name}' {source.flow.version} ({source.name})")
    if hint and isinstance(error, ToolError) and error.__cause__ is not None:
        error.with_facts(fix="--traceback shows where in the tool it was raised")


def _where(ready: Ready, result: ExecutionResult) -> str | None:
    """The step that failed, in the innermost flow, and the steps around it; None when no step did."""
    failed = [*_failed_steps(ready.source, ready, result)]
    if not failed:
        return None
    *around, (source, step) = failed
    calls = "".join(f", called by {outer}" for _, outer in reversed(around))
    return f"flow '{source.flow.name}' {source.flow.version}, {step}{calls}"


def _failed_steps(source: Source, ready: Ready, result: ExecutionResult) -> Iterator[tuple[Source, str]]:
    """The step that failed, and the one that failed inside of it, and so on, each with its place in a file."""
    failed = first_failed(result)
    if failed is None or failed.step_id is None:
        return
    nested, item = failed.sub_result, ""
    if nested is not None and is_map(failed):
        one = first_failed(nested)
        nested = None if one is None else one.sub_result
        item = "" if one is None else f", item {one.step_id}"
    yield source, f"step '{failed.step_id}'{item} ({source.place(failed.step_id)})"
    inner = None if nested is None else ready.source_of(nested.flow_name, nested.flow_version)
    if nested is not None and inner is not None:
        yield from _failed_steps(inner, ready, nested)
