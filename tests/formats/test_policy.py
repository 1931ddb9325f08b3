"""Reading files from places that are not trusted: which classes they may name."""

from __future__ import annotations

import json

import pytest

from chainweaver.exceptions import SchemaRefPolicyError
from chainweaver.flow import SchemaRefAllowlist
from chainweaver.formats import flow_from_dict, flow_from_json, flow_from_yaml, load_flow_file, read_flow_file

SHOP = SchemaRefAllowlist(modules=("shop",))
TEXT = """\
type: Flow
name: f
description: ""
input_schema_ref: shop.models:Order
steps:
  - tool_name: t
    input_contract: trap_of_a_file:Model
    retry: {max_retries: 1}
"""
JSON = """\
{"type": "Flow", "name": "f", "description": "", "input_schema_ref": "shop.models:Order", "steps": [
  {"tool_name": "t",
   "input_contract": "trap_of_a_file:Model",
   "retry": {"max_retries": 1}}]}
"""
DATA = json.loads(JSON)


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """The module that the file names says so when it is imported."""
    (tmp_path / "trap_of_a_file.py").write_text("raise AssertionError('it was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)


def readers(tmp_path):
    """Place of the refused reference -> a way to read it."""
    (tmp_path / "f.flow.yaml").write_text(TEXT)
    file = str(tmp_path / "f.flow.yaml")
    return {
        "/steps/0/input_contract": lambda policy: flow_from_dict(DATA, policy=policy),
        "/steps/0/input_contract (line 7, column 21)": lambda policy: flow_from_yaml(TEXT, policy=policy),
        "/steps/0/input_contract (line 3, column 22)": lambda policy: flow_from_json(JSON, policy=policy),
        f"/steps/0/input_contract ({file}:7)": lambda policy: load_flow_file(file, policy=policy),
    }


def test_a_reference_outside_the_allowlist_is_refused_with_its_place(trap, tmp_path):
    """api.md: class references obey SchemaRefPolicy and SchemaRefAllowlist; every way to read has the parameter."""
    for place, read in readers(tmp_path).items():
        with pytest.raises(SchemaRefPolicyError, match="'trap_of_a_file:Model'") as caught:
            read(SHOP)
        assert caught.value.where == place


def test_a_permitted_reference_is_read_and_not_looked_up(trap, tmp_path):
    """api.md: reading imports nothing, whatever the policy permits."""
    permitted = SchemaRefAllowlist(modules=("shop", "trap_of_a_file"))
    for read in readers(tmp_path).values():
        assert read(permitted).steps[0].input_contract == "trap_of_a_file:Model"
    assert read_flow_file(tmp_path / "f.flow.yaml", policy=permitted).flow.name == "f"
    assert flow_from_yaml(TEXT).name == "f"


def test_a_list_is_no_policy():
    """style: a mistake is told where it is made."""
    with pytest.raises(TypeError, match="not list"):
        flow_from_dict(DATA, policy=["shop"])  # type: ignore[arg-type]  # the point of the test
