"""PyYAML is an extra: without it JSON works, and YAML says what is missing."""

from __future__ import annotations

import sys

import pytest

from chainweaver import Flow, FlowStep, MissingExtraError, flow_from_json, flow_from_yaml

FLOW = Flow(name="sum", description="Adds up.", steps=[FlowStep(tool_name="add")])


@pytest.fixture(autouse=True)
def _no_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)


def test_reading_and_writing_yaml_without_the_library_names_the_extra():
    """Files: the same error in both directions, with the command that helps."""
    for attempt in (lambda: flow_from_yaml("name: sum"), FLOW.to_yaml):
        with pytest.raises(MissingExtraError) as caught:
            attempt()
        assert str(caught.value).splitlines() == [
            "YAML needs the extra 'yaml'.",
            "  why     PyYAML is not installed",
            "  fix     pip install 'chainweaver[yaml]', or use JSON",
        ]


def test_json_needs_no_extra():
    """Files: JSON is read and written with what every installation has."""
    assert flow_from_json(FLOW.to_json()) == FLOW
