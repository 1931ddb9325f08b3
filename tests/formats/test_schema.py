"""The published JSON Schema and the reader give one verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from chainweaver.exceptions import FlowSerializationError
from chainweaver.formats import flow_from_json, flow_schema, flow_schema_json
from tests.conftest import PROOF
from tests.formats.bad_files import BAD_FILES
from tests.formats.samples import random_flow, spoiled

GENERATED = 1_000 if PROOF else 120
PUBLISHED = Path(__file__).parents[2] / "schemas" / "flow.schema.json"

# Bounds of the reader, not structure: the schema says nothing about them.
BOUNDS = ("1001 steps", "a version beyond numbers")


@pytest.fixture(scope="module")
def oracle():
    schema = flow_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def reader_accepts(document: Any) -> bool:
    try:
        flow_from_json(json.dumps(document))
    except FlowSerializationError:
        return False
    return True


def test_the_published_schema_is_current():
    """Write it anew with: chainweaver schema > schemas/flow.schema.json"""
    assert PUBLISHED.read_text(encoding="utf-8") == flow_schema_json()


def test_the_schema_closes_every_definition():
    """Unknown keys are errors everywhere but among the values of the user."""
    for name, definition in flow_schema()["$defs"].items():
        assert definition.get("additionalProperties", "enum" in definition) in (False, True)
        assert "enum" in definition or definition["additionalProperties"] is False, name


def test_generated_flows_get_one_verdict(oracle):
    """Valid flows are valid to both; spoiled ones are refused by both or by neither."""
    verdicts = {True: 0, False: 0}
    for seed in range(GENERATED):
        document = random_flow(seed)
        assert oracle.is_valid(document), seed
        assert reader_accepts(document), seed
        changed = spoiled(document, seed)
        verdict = oracle.is_valid(changed)
        assert reader_accepts(changed) is verdict, (seed, changed)
        verdicts[verdict] += 1
    assert min(verdicts.values()) > GENERATED // 10


def test_the_structural_files_of_the_corpus_get_one_verdict(oracle):
    """Every hand-made file that parses is refused by the schema as well."""
    compared = 0
    for name, bad in BAD_FILES.items():
        if not bad.place.startswith("/") and bad.place != "at the top level":
            continue
        document = json.loads(bad.data) if bad.suffix == "json" else _as_json(str(bad.data))
        if name not in BOUNDS:
            assert not oracle.is_valid(document), name
            compared += 1
    assert compared >= 20


def _as_json(text: str) -> Any:
    from chainweaver.formats.limits import DEFAULT_LIMITS
    from chainweaver.formats.yaml_text import read_yaml

    return read_yaml(text, source=None, limits=DEFAULT_LIMITS).value


STEP = {"tool_name": "t"}
CAPABILITY = {"step_id": "a", "step_type": "capability", "capability_id": "c"}


@pytest.mark.parametrize(
    ("kind", "step", "valid"),
    [
        ("Flow", STEP, True),
        ("Flow", {}, False),
        ("Flow", {"tool_name": None, "flow_name": "f"}, True),
        ("Flow", {"tool_name": None}, False),
        ("Flow", {"tool_name": "t", "flow_name": "f"}, False),
        ("Flow", {"tool_name": ""}, False),
        ("Flow", {**STEP, "flow_version": "1.0"}, False),
        ("Flow", {**STEP, "flow_version": None}, True),
        ("Flow", {"flow_name": "f", "flow_version": "1.0.post1"}, True),
        ("Flow", {"flow_name": "f", "flow_version": "1.0.final"}, False),
        ("Flow", {**STEP, "map_concurrency": 2}, False),
        ("Flow", {**STEP, "map_concurrency": 2, "map_over": "rows"}, True),
        ("Flow", {**STEP, "map_concurrency": 0, "map_over": "rows"}, False),
        ("Flow", {**STEP, "on_item_error": "skip", "map_over": None}, False),
        ("Flow", {**STEP, "on_item_error": "fail"}, True),
        ("Flow", {**STEP, "map_as": "one"}, False),
        ("Flow", {**STEP, "map_as": "item"}, True),
        ("Flow", {**STEP, "chunk": {"input": "data", "rows": 3}}, True),
        ("Flow", {**STEP, "chunk": {"input": "data", "bytes": 64, "rows": None, "combine": "total"}}, True),
        ("Flow", {**STEP, "chunk": {"input": "data"}}, False),
        ("Flow", {**STEP, "chunk": {"input": "data", "bytes": 64, "rows": 3}}, False),
        ("Flow", {**STEP, "chunk": {"input": "data", "rows": 0}}, False),
        ("Flow", {**STEP, "chunk": {"rows": 3}}, False),
        ("Flow", {**STEP, "chunk": {"input": "data", "rows": 3}, "map_over": "rows"}, False),
        ("Flow", {**STEP, "chunk": None, "map_over": "rows"}, True),
        ("Flow", {"flow_name": "f", "chunk": {"input": "data", "rows": 3}}, False),
        ("DAGFlow", {**CAPABILITY, "chunk": {"input": "data", "rows": 3}}, False),
        ("DAGFlow", {**CAPABILITY, "tool_name": "t", "chunk": {"input": "data", "rows": 3}}, False),
        ("Flow", {**STEP, "on_error": "fallback:zero"}, True),
        ("Flow", {**STEP, "on_error": "fallback:"}, False),
        ("Flow", {**STEP, "timeout_seconds": 2.0}, True),
        ("Flow", {**STEP, "timeout_seconds": True}, False),
        ("Flow", {**STEP, "retry": {"max_retries": 3.0}}, True),
        ("Flow", {**STEP, "retry": {"max_retries": 3.5}}, False),
        ("Flow", {**STEP, "retry": {"jitter": 1}}, False),
        ("Flow", {**STEP, "step_id": "a"}, False),
        ("DAGFlow", STEP, False),
        ("DAGFlow", {**STEP, "step_id": "a"}, True),
        ("DAGFlow", CAPABILITY, True),
        ("DAGFlow", {**CAPABILITY, "capability_id": None}, False),
        ("DAGFlow", {**CAPABILITY, "step_type": "tool"}, False),
        ("DAGFlow", {**CAPABILITY, "tool_name": "t"}, True),
        ("DAGFlow", {**CAPABILITY, "tool_name": "t", "flow_name": "f"}, False),
    ],
)
def test_rules_across_fields_are_the_same_to_both(oracle, kind, step, valid):
    """What the models check in code, the schema says as rules."""
    document = {"type": kind, "name": "x", "version": "1.0", "description": "", "steps": [step]}
    assert reader_accepts(document) is valid
    assert oracle.is_valid(document) is valid


@pytest.mark.parametrize(
    "version",
    [
        "1",
        "1.0",
        "v1.0",
        "1!1",
        "1.0a1",
        "1.0-ALPHA.2",
        "1.0c3",
        "1.0.post",
        "1.0-4",
        "1.0.dev1+a.b-1",
        " 1.0 ",
        "1.0r5",
    ],
)
def test_both_know_every_spelling_of_a_version(oracle, version):
    """PEP 440, normal forms or not."""
    document = {"type": "Flow", "name": "x", "version": version, "description": "", "steps": []}
    assert reader_accepts(document)
    assert oracle.is_valid(document)


@pytest.mark.parametrize(
    "version", ["", "one", "1.", ".1", "1..0", "1.0+", "1.0+a_", "1.0 rc1 x", "1!", "1.0-rc1-x", "\u0661.0"]
)
def test_both_refuse_what_is_no_version(oracle, version):
    """PEP 440."""
    document = {"type": "Flow", "name": "x", "version": version, "description": "", "steps": []}
    assert not reader_accepts(document)
    assert not oracle.is_valid(document)
