"""What the compiler makes is never changed: it is shared by all runs, of all threads and tasks."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import chainweaver.compiler
from chainweaver import plan

CHANGED_WHILE_COMPILING = {"Lowered", "_Reader"}
"""Notes of one compilation, which nobody sees afterwards."""


def dataclasses_of_the_compiler() -> Iterator[type]:
    modules = [plan] + [
        importlib.import_module(f"chainweaver.compiler.{one.name}")
        for one in pkgutil.iter_modules(chainweaver.compiler.__path__)
    ]
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == module.__name__:
                yield value


CLASSES = {one.__name__: one for one in dataclasses_of_the_compiler()}


@pytest.mark.parametrize("name", CLASSES)
def test_what_the_compiler_makes_cannot_be_changed(name: str):
    """Concurrency: plans are replaced, never changed in place; and nothing can be put on them that was not foreseen."""
    frozen = CLASSES[name].__dataclass_params__.frozen  # type: ignore[attr-defined]

    assert frozen is (name not in CHANGED_WHILE_COMPILING)
    assert "__slots__" in vars(CLASSES[name])


@pytest.mark.parametrize("name", ["Plan", "PlannedStep", "PlannedTool", "PlannedMap"])
def test_plans_and_their_parts_are_equal_to_themselves_only(name: str):
    """Concurrency: comparing functions and models would cost much and mean nothing; digests say what is the same."""
    assert CLASSES[name].__eq__ is object.__eq__


def test_all_of_them_were_found():
    """Concurrency: the list above is no empty one."""
    assert {"Plan", "CompilationResult", "Predicate", "Writes", "Lowered", "View"} <= set(CLASSES)
