"""Flows to write, read and spoil: random but seeded, so that a failure can be repeated from its number.

Used by the tests of this folder only.
"""

from __future__ import annotations

import copy
import random
from typing import Any

_NAMES = ["a", "fetch", "no", "010", "1e3", "über", "x y", "it's", 'say "hi"', "#c", "- d", "null", "e: f", "💡", "y"]
_LITERALS: list[Any] = [
    0,
    -1,
    2**70,
    0.5,
    -0.25,
    1e300,
    True,
    False,
    None,
    [],
    {},
    [1, [2, {"k": "no"}]],
    {"$literal": "x"},
    {"$key": "a", "$default": 1},
    "0o17",
    "1_000",
    "0x1F",
    "1:30",
    "2024-01-01",
    "~",
    "",
    " lead",
    "trail ",
    "two\nlines",
    "tab\there",
    "<<",
    "=",
    "*a",
    "&a",
    "!t",
    "%d",
    "@x",
    "`x",
    "a: b",
    "a #b",
    "\u2028",
    "\x85",
    "\x00",
    "\x07",
    "é",
    "😀",
    "/user/0",
    "..",
    "---",
    "yes",
    "No",
    ".inf",
    "+1",
    "1.",
    "0.10",
]
_VERSIONS = ["1.0", "0.1.0", "2", "1.0rc1", "1!2.0.post1.dev3+local.7", "v1.2", "1.0-1"]


def random_flow(seed: int) -> dict[str, Any]:
    """A valid flow document."""
    rng = random.Random(seed)
    if rng.random() < 0.5:
        return {**_common(rng), "type": "Flow", "steps": [_step(rng) for _ in range(rng.randint(0, 4))]}
    steps = [_dag_step(rng, index) for index in range(rng.randint(0, 4))]
    return {**_common(rng), "version": rng.choice(_VERSIONS), "type": "DAGFlow", "steps": steps}


def _some(rng: random.Random, choices: dict[str, Any], chance: float = 0.25) -> dict[str, Any]:
    return {key: value for key, value in choices.items() if rng.random() < chance}


def _common(rng: random.Random) -> dict[str, Any]:
    optional = {
        "format_version": "1",
        "version": rng.choice(_VERSIONS),
        "deterministic": rng.random() < 0.5,
        "status": rng.choice(["active", "needs_review", "disabled"]),
        "trigger_conditions": rng.choice([None, "when asked"]),
        "input_schema_ref": rng.choice([None, "shop.models:Order", "a:B.C"]),
        "tool_schema_hashes": rng.choice([None, {}, {"fetch": "0123456789abcdef"}]),
        "governance": _some(
            rng, {"lifecycle": "draft", "owner": "ops", "replaces_tools": ["a"], "estimated_model_calls_removed": 3}
        ),
        "safety": _some(rng, {"side_effects": "write", "idempotent": False, "approval_reason": "no"}),
        "on_context_collision": rng.choice(["overwrite", "warn", "error"]),
        "dynamic_params": rng.sample(_NAMES, 2),
        "outputs": rng.choice([None, [], ["a", "b"]]),
        "on_failure": "finish",
        "validation": "once",
        "groups": {"first": ["a"]},
        "requirements": ["numpy>=1"],
    }
    return {"name": rng.choice(_NAMES), "description": rng.choice(_NAMES), **_some(rng, optional)}


def _step(rng: random.Random) -> dict[str, Any]:
    target: dict[str, Any] = {"tool_name": rng.choice(_NAMES)}
    if rng.random() < 0.3:
        target = {"flow_name": rng.choice(_NAMES), **_some(rng, {"flow_version": rng.choice(_VERSIONS)})}
    optional = {
        "input_mapping": {name: rng.choice(_LITERALS) for name in rng.sample(_NAMES, 3)},
        "output_mapping": {rng.choice(_NAMES): rng.choice(_NAMES)},
        "retry": _some(rng, {"max_retries": 2, "backoff_seconds": 0.5, "jitter": True, "retryable_errors": ["a:B"]}),
        "on_error": rng.choice(["fail", "skip", "fallback:zero", "fallback: two words"]),
        "decision_candidates": ["a", "b"],
        "input_contract": "a:B",
        "timeout_seconds": rng.choice([1, 0.5, 30]),
    }
    mapped = {"map_over": "items", **_some(rng, {"map_concurrency": 2, "on_item_error": "collect", "map_as": "one"})}
    chunk = {"input": "data", **rng.choice([{"bytes": 1024}, {"rows": 7}]), **_some(rng, {"combine": "sum"})}
    if rng.random() < 0.3:
        target.update(mapped)
    elif "tool_name" in target and rng.random() < 0.3:
        target["chunk"] = chunk
    return {**target, **_some(rng, optional)}


def _dag_step(rng: random.Random, index: int) -> dict[str, Any]:
    step = {**_step(rng), "step_id": f"s{index}"}
    if index:
        step["depends_on"] = [f"s{rng.randrange(index)}"]
    if rng.random() < 0.2:
        step["branches"] = [{"target_step_id": "s1", "predicate": "total > 1"}]
        step["default_next"] = "s2"
    if rng.random() < 0.15:
        step = {"step_id": f"s{index}", "step_type": "capability", "capability_id": "people"}
    return step


_WRONG: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    3.0,
    2.5,
    1e300,
    10**30,
    "",
    "1",
    "true",
    "no",
    "active",
    "fallback:",
    "fallback: ",
    "1.0",
    "v",
    "a:B",
    "a:",
    ":B",
    "a:1b",
    "tool",
    "capability",
    [],
    [""],
    ["a"],
    [1],
    {},
    {"a": 1},
    {"tool_name": "t"},
    [{}],
    [{"step_id": "x", "tool_name": "t"}],
]


def spoiled(document: dict[str, Any], seed: int) -> Any:
    """A copy with one to three changes of structure, which may well leave it valid."""
    rng = random.Random(seed)
    changed = copy.deepcopy(document)
    for _ in range(rng.randint(1, 3)):
        containers: list[Any] = [changed] if isinstance(changed, (dict, list)) else []
        for container in containers:
            parts = container.values() if isinstance(container, dict) else container
            containers += [part for part in parts if isinstance(part, (dict, list))]
        filled = [container for container in containers if container]
        if not filled:
            return rng.choice(_WRONG)
        _change(rng, rng.choice(filled))
    return changed


def _change(rng: random.Random, container: Any) -> None:
    key = rng.choice(list(container)) if isinstance(container, dict) else rng.randrange(len(container))
    match rng.randrange(5 if isinstance(container, dict) else 3):
        case 0:
            del container[key]
        case 1 | 2:
            container[key] = copy.deepcopy(rng.choice(_WRONG))
        case 3:
            container[str(key) + rng.choice(["s", "_", "x"])] = container.pop(key)
        case _:
            keys = [
                "flow_name",
                "tool_name",
                "map_over",
                "chunk",
                "rows",
                "capability_id",
                "flow_version",
                "map_concurrency",
                "step_type",
                "zzz",
            ]
            container[rng.choice(keys)] = copy.deepcopy(rng.choice(_WRONG))


_NOISE = [
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    ",",
    ":",
    "\n",
    "\t",
    " ",
    "\\",
    "&a",
    "*a",
    "!!python/name:os.system",
    "- ",
    "? ",
    "%",
    "#",
    "\x00",
    "\ud800",
    "1e400",
    "NaN",
    "010",
    "\ufeff",
    "\u202e",
    "<<: ",
    "---\n",
    "9" * 700,
    "|",
    ">",
    "\\ud800",
    "\x85",
    "...",
]


def garbled(text: str, seed: int) -> str:
    """A copy with one to four changes of its letters."""
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        match rng.randrange(5):
            case 0:
                text = text[:at] + rng.choice(_NOISE) + text[at:]
            case 1:
                text = text[:at] + text[at + rng.randint(1, 8) :]
            case 2:
                text = text[:at]
            case 3:
                end = at + rng.randint(1, 40)
                text = text[:end] + text[at:end] + text[end:]
            case _:
                text = text[:at] + (rng.choice(_NOISE) * rng.choice([2, 100, 20_000]))[:200_000] + text[at:]
    return text
