"""Neighbours on the same shapes: `python -m benchmarks.peers`.

A neighbour is measured when it is installed and named as missing when it is not; none is a dependency. Each runs the
same models and functions as the limit, validated in and out inside its own step function, so the difference is what the
library itself costs. Definition, graph building and compilation are outside the measured time, as they are for ours.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import inspect
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from typing_extensions import TypedDict

from benchmarks import shapes
from benchmarks.measure import Effort, interleaved, median_of, sync_contender
from benchmarks.shapes import Shape, TypedStep
from benchmarks.workloads import Bench

Run = Callable[[], Mapping[str, Any]]


def _key_of(step: TypedStep) -> str:
    """The one context key that a step of these shapes writes."""
    [key] = step.output_model.model_fields
    return key


def _on_values(step: TypedStep) -> Callable[..., Any]:
    """The step as a function of its inputs in order: validate, call, validate, give the one value."""
    fields = [field for field, _ in step.reads]
    validate_input = step.input_model.__pydantic_validator__.validate_python
    validate_output = step.output_model.__pydantic_validator__.validate_python
    fn, key = step.fn, _key_of(step)

    def call(*values: Any) -> Any:
        inputs = validate_input(dict(zip(fields, values, strict=True)))
        return validate_output(fn(inputs)).__dict__[key]

    return call


def _on_mapping(step: TypedStep) -> Callable[[Mapping[str, Any]], Any]:
    """The step as a function of a mapping that has the keys it reads."""
    validate_input = step.input_model.__pydantic_validator__.validate_python
    validate_output = step.output_model.__pydantic_validator__.validate_python
    fn, key, reads = step.fn, _key_of(step), step.reads

    def call(given: Mapping[str, Any]) -> Any:
        return validate_output(fn(validate_input({field: given[name] for field, name in reads}))).__dict__[key]

    return call


def _on_names(step: TypedStep) -> Callable[..., Any]:
    """The step as a function whose signature names the context keys it reads, for libraries that wire by name."""
    keys = [key for _, key in step.reads]
    on_mapping = _on_mapping(step)

    def call(**given: Any) -> Any:
        return on_mapping(given)

    call.__name__ = call.__qualname__ = _key_of(step)
    parameter = inspect.Parameter
    parameters = [parameter(key, parameter.POSITIONAL_OR_KEYWORD, annotation=int) for key in keys]
    vars(call)["__signature__"] = inspect.Signature(parameters, return_annotation=int)
    call.__annotations__ = {**dict.fromkeys(keys, int), "return": int}
    return call


def hamilton(shape: Shape) -> Run:
    """Hamilton: functions wired by parameter names, run by the default driver."""
    driver, base = import_module("hamilton.driver"), import_module("hamilton.base")
    module = import_module("hamilton.ad_hoc_utils").create_temporary_module(*[_on_names(step) for step in shape.steps])
    built = driver.Builder().with_modules(module).with_adapters(base.DictResult()).build()
    return lambda: built.execute(list(shape.expected), inputs=shape.initial)


def pipefunc(shape: Shape) -> Run:
    """pipefunc: functions wired by output names, run in this thread."""
    package = import_module("pipefunc")
    pipeline = package.Pipeline([package.PipeFunc(_on_names(step), output_name=_key_of(step)) for step in shape.steps])
    answer = list(shape.expected)
    return lambda: dict(zip(answer, pipeline.run(answer, kwargs=shape.initial), strict=True))


def dask(shape: Shape) -> Run:
    """dask: a graph of tuples on the synchronous scheduler."""
    get_sync = import_module("dask.local").get_sync
    graph: dict[str, Any] = dict(shape.initial)
    for step in shape.steps:
        graph[_key_of(step)] = (_on_values(step), *[key for _, key in step.reads])
    answer = list(shape.expected)
    return lambda: dict(zip(answer, get_sync(graph, answer), strict=True))


def langgraph(shape: Shape) -> Run:
    """LangGraph: a state graph with one channel per key, compiled, without a checkpointer."""
    package = import_module("langgraph.graph")
    keys = [*shape.initial, *[_key_of(step) for step in shape.steps]]
    builder = package.StateGraph(TypedDict("State", dict.fromkeys(keys, int)))  # type: ignore[operator]  # the keys are data
    for step in shape.steps:
        builder.add_node(step.name, _on_state(step))
        for before in [list(step.after)] if step.after else [package.START]:
            builder.add_edge(before, step.name)
    graph = builder.compile()
    config: Any = {"recursion_limit": len(shape.steps) + 5}
    return lambda: graph.invoke(shape.initial, config)


def _on_state(step: TypedStep) -> Callable[[Any], Any]:
    on_mapping, key = _on_mapping(step), _key_of(step)
    return lambda state: {key: on_mapping(state)}


PEERS: dict[str, Callable[[Shape], Run]] = {
    "sf-hamilton": hamilton,
    "pipefunc": pipefunc,
    "dask": dask,
    "langgraph": langgraph,
}
"""Adapters by the name of the distribution."""

SHAPES: tuple[Callable[[], Shape], ...] = (
    lambda: shapes.chain(5),
    lambda: shapes.chain(100),
    shapes.diamond,
    shapes.layered,
)


def installed() -> dict[str, str]:
    """Versions of the neighbours that are here."""
    versions: dict[str, str] = {}
    for name in PEERS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed and left out.")
    return versions


def ratios_of(name: str, shape: Shape, effort: Effort) -> float:
    """What a neighbour, or chainweaver, costs as a multiple of the loop by hand."""
    with Bench() as bench:
        if name == "chainweaver":
            contender = bench.ours(shape)
        else:
            contender = sync_contender(name, PEERS[name](shape), shape.check)
        rounds = interleaved([contender, bench.hand(shape)], effort)
    return median_of(rounds, lambda row: row[0] / row[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table: one row for each system, one column for each shape, ratios to the loop by hand."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="Measure the neighbours.")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each cell (default 2)")
    effort = Effort(budget_s=parser.parse_args(arguments).seconds, slice_s=0.005)
    systems = {"chainweaver": "here", **installed()}
    made = [make() for make in SHAPES]
    print("| system | " + " | ".join(shape.name for shape in made) + " |")
    print("|---|" + "---|" * len(made))
    for name, version in systems.items():
        cells = [f"{ratios_of(name, shape, effort):.1f}" for shape in made]
        print(f"| {name} {version} | " + " | ".join(cells) + " |", flush=True)
    print(f"Multiples of the loop by hand on Python {platform.python_version()}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
