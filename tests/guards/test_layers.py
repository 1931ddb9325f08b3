"""The layer rule and the import contract, on the real package and on planted violations.

The checker is `tests/guards/imports.py`; what may be imported by whom is written there, what is excused, here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guards.imports import (
    contract_violations,
    imports_of,
    layer_violations,
    unused_exemptions,
)

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "chainweaver").rglob("*.py"))
}

# Reviewed exceptions to the layer rule: (module:function, imported room) -> why.
CONVENIENCE = "a method that users find on the flow itself"
TAKES = "a flow as a tool takes what the dictionaries of the same flow say that it takes"
EXEMPTIONS: dict[tuple[str, str], str] = {
    ("chainweaver.flow.definition:_FlowDefinition.to_ascii", "viz"): CONVENIENCE,
    ("chainweaver.flow.definition:_FlowDefinition.to_mermaid", "viz"): CONVENIENCE,
    ("chainweaver.flow.definition:_FlowDefinition.to_dot", "viz"): CONVENIENCE,
    ("chainweaver.flow.definition:_FlowDefinition.to_json", "formats"): CONVENIENCE,
    ("chainweaver.flow.definition:_FlowDefinition.to_yaml", "formats"): CONVENIENCE,
    ("chainweaver.flow.definition:_FlowDefinition.from_json", "formats"): CONVENIENCE,
    ("chainweaver.flow.definition:_FlowDefinition.from_yaml", "formats"): CONVENIENCE,
    ("chainweaver.tools.flow_tool:input_model", "export"): TAKES,
    (
        "chainweaver.canonical:_encode_object",
        "objects",
    ): "how arrays and frames are read is known there only",
}


def complaints(violations) -> list[str]:
    return [str(one) for one in violations]


def test_every_room_imports_only_rooms_below_it():
    """Layers: an import goes downwards, or its function is in the reviewed list."""
    assert complaints(layer_violations(FILES, EXEMPTIONS)) == []


def test_every_exemption_is_still_needed():
    """Layers: the reviewed list holds nothing that has gone."""
    assert unused_exemptions(FILES, EXEMPTIONS) == []


def test_nothing_that_performs_is_reachable_from_the_run_core_and_the_plan():
    """Import contract: no client, network, clock, randomness, thread or loop behind `_execution` and `plan`."""
    assert complaints(contract_violations(FILES)) == []


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("import chainweaver.executor", "chainweaver.executor"),
        ("from chainweaver.executor import FlowExecutor", "chainweaver.executor.FlowExecutor"),
        ("from chainweaver import executor", "chainweaver.executor"),
        ("from .. import executor", "chainweaver.executor"),
        ("from ..executor import FlowExecutor", "chainweaver.executor.FlowExecutor"),
        ("def late():\n    from ..executor import FlowExecutor", "chainweaver.executor.FlowExecutor"),
        ("import importlib\nimportlib.import_module('chainweaver.executor')", "chainweaver.executor"),
        ("from importlib import import_module\nimport_module('..executor', __package__)", "chainweaver.executor"),
        ("__import__('chainweaver.executor')", "chainweaver.executor"),
        ("if TYPE_CHECKING:\n    from chainweaver.executor import FlowExecutor", "chainweaver.executor.FlowExecutor"),
        ("try:\n    import chainweaver.executor\nexcept ImportError:\n    pass", "chainweaver.executor"),
    ],
)
def test_a_planted_upward_import_is_found_in_every_form(source, target):
    """Layers: absolute, relative, lazy, dynamic and typing-only imports all count."""
    files = {"chainweaver/compiler/lower.py": source}

    [found] = layer_violations(files, {})

    assert found.path == "chainweaver/compiler/lower.py"
    assert f"'compiler' imports '{target}'" in found.reason


def test_a_relative_import_in_a_package_file_starts_at_that_package():
    """Layers: `from . import x` means another thing in `__init__.py` than beside it."""
    [inside] = imports_of("chainweaver/compiler/__init__.py", "from . import lower")
    [beside] = imports_of("chainweaver/compiler/lower.py", "from . import bind")

    assert (inside.target, beside.target) == ("chainweaver.compiler.lower", "chainweaver.compiler.bind")
    assert imports_of("chainweaver/plan.py", "from . import executor")[0].target == "chainweaver.executor"


def test_neighbours_in_one_layer_do_not_import_each_other():
    """Layers: rooms of one layer stand side by side."""
    assert len(layer_violations({"chainweaver/viz/ascii.py": "from chainweaver.formats import flow_to_dict"}, {})) == 1


def test_a_room_does_not_import_through_the_root():
    """Layers: the root would hide which room is meant."""
    assert len(layer_violations({"chainweaver/compiler/lower.py": "from chainweaver import FlowExecutor"}, {})) == 1
    assert len(layer_violations({"chainweaver/compiler/lower.py": "import chainweaver"}, {})) == 1


def test_a_new_room_has_to_be_given_a_place():
    """Layers: a folder that nobody placed is a finding, not a hole."""
    assert "has no place" in str(layer_violations({"chainweaver/attic/box.py": ""}, {})[0])


def test_an_exemption_excuses_one_function_only():
    """Layers: the excuse does not spread to the module or to other functions."""
    source = "class Flow:\n    def to_mermaid(self):\n        from chainweaver.viz import flow_to_mermaid\n"
    excuse = {("chainweaver.flow.definition:Flow.to_mermaid", "viz"): "convenience"}

    assert layer_violations({"chainweaver/flow/definition.py": source}, excuse) == []
    assert len(layer_violations({"chainweaver/flow/definition.py": source.replace("mermaid", "dot")}, excuse)) == 1
    upward = "from chainweaver.viz import flow_to_mermaid"
    assert len(layer_violations({"chainweaver/flow/definition.py": upward}, excuse)) == 1
    assert unused_exemptions({"chainweaver/flow/definition.py": upward}, excuse) == list(excuse)


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from time import monotonic",
        "import concurrent.futures",
        "def late():\n    import random",
        "import importlib\nimportlib.import_module('openai')",
        "__import__('socket')",
        "async def f():\n    from asyncio import sleep",
    ],
)
def test_a_planted_performing_import_is_found_in_the_core_and_in_the_plan(source):
    """Import contract: direct, lazy and literal dynamic imports."""
    assert len(contract_violations({"chainweaver/_execution/run.py": source})) == 1
    assert len(contract_violations({"chainweaver/plan.py": source})) == 1
    assert contract_violations({"chainweaver/lanes/sync.py": source}) == []


@pytest.mark.parametrize(
    "hop",
    [
        "from chainweaver.flow import retry",
        "from chainweaver.flow.retry import RetryPolicy",
        "from ..flow.retry import RetryPolicy",
        "from ..flow import retry",
        "import importlib\nimportlib.import_module('chainweaver.flow.retry')",
    ],
)
def test_a_performing_import_behind_another_room_is_found_with_the_way_to_it(hop):
    """Import contract: transitive inside the package, relative imports included."""
    files = {"chainweaver/_execution/run.py": hop, "chainweaver/flow/retry.py": "import random"}

    [found] = contract_violations(files)

    assert str(found) == (
        "chainweaver/flow/retry.py:1: the run core reaches 'random': "
        "chainweaver._execution.run -> chainweaver.flow.retry -> random"
    )


def test_a_package_file_on_the_way_counts():
    """Import contract: importing `a.b` runs `a/__init__.py` first."""
    files = {
        "chainweaver/_execution/run.py": "from chainweaver.flow.retry import RetryPolicy",
        "chainweaver/flow/__init__.py": "import time",
        "chainweaver/flow/retry.py": "",
    }
    assert len(contract_violations(files)) == 1


def test_typing_only_imports_are_free_for_the_contract():
    """Import contract: what never happens at run time performs nothing."""
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from datetime import datetime\n"
    assert contract_violations({"chainweaver/_execution/run.py": source}) == []
