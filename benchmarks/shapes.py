"""The shapes that are run: tiny typed steps as plain data, with an input and the answer that is right.

Nothing here knows how a shape is run. The loops by hand, chainweaver, the baseline and the peers all start from these
objects, so that they do the same arithmetic on the same models.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, create_model

PRIME = 999_983
WAIT_S = 0.005
"""What a leaf of the fan-out waits for, in seconds."""


class Pair(BaseModel):
    """Input of the chain and of the layered graph."""

    a: int
    b: int


class Rows(BaseModel):
    """Input that carries a typed list."""

    rows: list[dict[str, int]]


class LooseRows(BaseModel):
    """Input that carries a list of anything."""

    rows: list


@dataclass(frozen=True, slots=True)
class TypedStep:
    """One step: two models, a function of the validated input, and where the input fields come from.

    Attributes:
        reads: Pairs of input field and context key.
        after: Names of the steps that it depends on.
    """

    name: str
    input_model: type[BaseModel]
    output_model: type[BaseModel]
    fn: Callable[[Any], Any]
    reads: tuple[tuple[str, str], ...]
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shape:
    """Steps in an order in which they can be run one after the other.

    Attributes:
        linear: Whether each step depends on the one before it and on nothing else.
        expected: The keys of the final context that make up the answer, with the values that are right.
    """

    name: str
    steps: tuple[TypedStep, ...]
    initial: dict[str, Any]
    expected: dict[str, Any]
    linear: bool = False

    def check(self, context: Mapping[str, Any] | None) -> None:
        """Raise where a run did not give the right answer."""
        answer = {} if context is None else {key: context[key] for key in self.expected if key in context}
        if answer != self.expected:
            raise AssertionError(f"{self.name}: expected {self.expected!r}, got {answer!r}")


def chain(length: int, *, extra_keys: int = 0) -> Shape:
    """Each step adds to or multiplies the number of the step before it. Every step has an output model of its own.

    Args:
        extra_keys: Keys that lie in the context from the start and are read by nobody.
    """
    value = 1
    for position in range(length):
        value = _link_value(position, value, 3)
    extra = {f"unused{number}": number for number in range(extra_keys)}
    initial = {"v0": 1, "k": 3, **extra}
    return Shape(f"chain of {length}", _links()[:length], initial, {f"v{length}": value}, linear=True)


def _link_value(position: int, a: int, b: int) -> int:
    return (a * b if position % 2 else a + b) % PRIME


@lru_cache(maxsize=1)
def _links() -> tuple[TypedStep, ...]:
    """The longest chain; the shorter ones are its beginning. Making models is slow, so it is done once."""
    return tuple(_link(position) for position in range(5000))


def _link(position: int) -> TypedStep:
    key = f"v{position + 1}"

    def add(pair: Pair) -> dict[str, int]:
        return {key: (pair.a + pair.b) % PRIME}

    def multiply(pair: Pair) -> dict[str, int]:
        return {key: (pair.a * pair.b) % PRIME}

    return TypedStep(
        name=f"link{position}",
        input_model=Pair,
        output_model=one_number(f"Link{position}", key),
        fn=multiply if position % 2 else add,
        reads=(("a", f"v{position}"), ("b", "k")),
        after=(f"link{position - 1}",) if position else (),
    )


def one_number(name: str, *keys: str) -> type[BaseModel]:
    """A model of integers; without keys of one that is called like the model."""
    keys = keys or (name,)
    fields: dict[str, Any] = dict.fromkeys(keys, (int, ...))
    return create_model(name, **fields)


def diamond(width: int = 16, *, leaf: str = "compute") -> Shape:
    """One step, `width` steps that read it, one step that reads them all.

    Args:
        leaf: "compute" for arithmetic only, "block" for leaves that sleep, "await" for leaves that sleep in the event
            loop (then all three kinds of step are coroutine functions).
    """
    keys = tuple(f"leaf{number}" for number in range(width))
    leaf_input = one_number("LeafInput", "r", "k")

    def root(pair: Pair) -> dict[str, int]:
        return {"r": pair.a + pair.b}

    def join(leaves: Any) -> dict[str, int]:
        return {"total": sum([getattr(leaves, key) for key in keys])}

    awaits = leaf == "await"
    names = tuple(f"s_{key}" for key in keys)
    steps = (
        TypedStep(
            "root", Pair, one_number("Root", "r"), _as_coroutine(root) if awaits else root, (("a", "x"), ("b", "k"))
        ),
        *(
            TypedStep(
                names[number],
                leaf_input,
                one_number(f"Leaf{number}", keys[number]),
                _leaf(number, keys[number], leaf),
                (("r", "r"), ("k", "k")),
                ("root",),
            )
            for number in range(width)
        ),
        TypedStep(
            "join",
            one_number("JoinInput", *keys),
            one_number("Join", "total"),
            _as_coroutine(join) if awaits else join,
            tuple((key, key) for key in keys),
            names,
        ),
    )
    return Shape(f"diamond 1-{width}-1", steps, {"x": 1, "k": 3}, {"total": sum(4 * 3 + n for n in range(width))})


def _leaf(number: int, key: str, kind: str) -> Callable[[Any], Any]:
    def compute(leaf: Any) -> dict[str, int]:
        return {key: leaf.r * leaf.k + number}

    def block(leaf: Any) -> dict[str, int]:
        time.sleep(WAIT_S)
        return {key: leaf.r * leaf.k + number}

    async def wait(leaf: Any) -> dict[str, int]:
        await asyncio.sleep(WAIT_S)
        return {key: leaf.r * leaf.k + number}

    return {"compute": compute, "block": block, "await": wait}[kind]


def _as_coroutine(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def call(inputs: Any) -> Any:
        return fn(inputs)

    return call


def layered(layers: int = 10, width: int = 100) -> Shape:
    """`layers` x `width` steps; each one below the first layer reads two steps of the layer above it.

    The answer is the last layer, which every step leads to: nobody can leave steps out.
    """
    steps: list[TypedStep] = []
    values: dict[str, int] = {"x": 1, "k": 3}
    for layer in range(layers):
        for place in range(width):
            above = (f"n{layer - 1}_{place}", f"n{layer - 1}_{(place + 37) % width}")
            left, right = above if layer else ("x", "k")
            key = f"n{layer}_{place}"
            values[key] = (2 * values[left] + values[right] + place) % PRIME
            steps.append(
                TypedStep(
                    f"s_{key}",
                    Pair,
                    one_number(f"Place_{key}", key),
                    _place(place, key),
                    (("a", left), ("b", right)),
                    (f"s_{left}", f"s_{right}") if layer else (),
                )
            )
    answer = {key: values[key] for key in (f"n{layers - 1}_{place}" for place in range(width))}
    return Shape(f"DAG {layers} x {width}", tuple(steps), {"x": 1, "k": 3}, answer)


def _place(place: int, key: str) -> Callable[[Any], dict[str, int]]:
    def fn(pair: Pair) -> dict[str, int]:
        return {key: (2 * pair.a + pair.b + place) % PRIME}

    return fn


def row_chain(length: int = 20, rows: int = 50, *, typed: bool = True) -> Shape:
    """Each step hands on a list of small dicts. `typed` has pydantic look into every dict, in and out."""
    data = [{"id": number, "price": number * 3, "count": number % 7} for number in range(rows)]
    annotation: Any = list[dict[str, int]] if typed else list
    steps = []
    for position in range(length):
        key = f"rows{position + 1}"
        fields: dict[str, Any] = {key: (annotation, ...)}
        steps.append(
            TypedStep(
                f"pass{position}",
                Rows if typed else LooseRows,
                create_model(f"Pass{position}", **fields),
                _hand_on(key),
                (("rows", f"rows{position}"),),
                (f"pass{position - 1}",) if position else (),
            )
        )
    return Shape(f"{rows} dicts through {length}", tuple(steps), {"rows0": data}, {f"rows{length}": data}, linear=True)


def _hand_on(key: str) -> Callable[[Any], dict[str, Any]]:
    def fn(inputs: Any) -> dict[str, Any]:
        return {key: inputs.rows}

    return fn
