"""What is written reads back equal, and nothing is written that would not."""

from __future__ import annotations

import datetime
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from chainweaver.exceptions import FlowSerializationError
from chainweaver.flow import DAGFlow, DAGFlowStep, Flow, FlowStep, RetryPolicy
from chainweaver.formats import (
    FlowFormatWarning,
    FlowParseLimits,
    flow_from_dict,
    flow_from_json,
    flow_from_yaml,
    flow_to_dict,
    flow_to_json,
    flow_to_yaml,
    load_flow_file,
    read_flow_file,
    yaml_text,
)
from tests.conftest import PROOF
from tests.formats.samples import random_flow

GENERATED = 1_000 if PROOF else 120
ROOT = Path(__file__).parents[2]

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def flow_with(value: Any) -> Flow:
    return Flow(name="x", description="", steps=[FlowStep(tool_name="t", input_mapping={"v": value})])


def spelled(value: Any) -> str:
    """Tells 1, 1.0 and True apart, which are equal to Python; the order of keys does not count."""
    return json.dumps(value, sort_keys=True)


@pytest.mark.parametrize("seed", range(0, GENERATED, 40))
def test_random_flows_survive_every_format(seed):
    """flow_from_x(flow_to_x(f)) == f, and writing again gives the same text."""
    for one in range(seed, seed + 40):
        flow = flow_from_dict(random_flow(one))
        assert flow_from_dict(flow_to_dict(flow)) == flow
        assert flow_from_json(flow_to_json(flow)) == flow
        text = flow_to_yaml(flow)
        assert flow_from_yaml(text) == flow
        assert flow_to_yaml(flow_from_yaml(text)) == text


@given(plain_values)
def test_every_literal_survives_every_format(value):
    """R6: a literal comes back with its value and its type, whatever YAML would like to read into it."""
    flow = flow_with(value)
    for back in (
        flow_from_dict(flow_to_dict(flow)),
        flow_from_json(flow_to_json(flow)),
        flow_from_yaml(flow_to_yaml(flow)),
    ):
        assert spelled(back.steps[0].input_mapping["v"]) == spelled(value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ((1, 2), "type 'tuple'"),
        ({1}, "type 'set'"),
        (b"x", "type 'bytes'"),
        (math.nan, "number nan"),
        (-math.inf, "number -inf"),
        (datetime.date(2024, 1, 1), "type 'date'"),
        ({1: "a"}, "key 1 is not text"),
        ("\ud800", "half of a surrogate pair"),
        (10**640, "more than 640 digits"),
        (type("Name", (str,), {})("x"), "type 'Name'"),
    ],
)
def test_a_literal_that_json_would_change_is_refused_with_its_pointer(value, says):
    """No tuple silently becomes a list: the error names the literal."""
    with pytest.raises(FlowSerializationError) as caught:
        flow_to_json(flow_with([0, value]))
    assert "/steps/0/input_mapping/v/1: " in str(caught.value)
    assert says in str(caught.value)


def test_the_largest_number_is_written_and_read():
    """640 digits both ways; one more is refused both ways."""
    flow = flow_with(10**640 - 1)
    assert flow_from_json(flow_to_json(flow)) == flow


def test_a_literal_that_contains_itself_is_refused():
    """Also one that contains itself twice, which doubles with every level."""
    loop: list[Any] = []
    loop += [loop, loop]
    with pytest.raises(FlowSerializationError, match="contains itself"):
        flow_to_dict(
            flow_with(0).model_copy(
                update={"steps": [FlowStep.model_construct(tool_name="t", input_mapping={"v": loop})]}
            )
        )


def test_a_dict_is_checked_like_a_file():
    """Depth, number of values, text and loops are bounded for dicts, too."""
    deep: Any = 0
    for _ in range(100):
        deep = [deep]
    wide = [[0] * 100] * 2_000
    for value, says in ((deep, "64 levels"), (wide, "100000 values"), ("a" * 100_001, "100000 characters")):
        data = {
            "type": "Flow",
            "name": "x",
            "description": "",
            "steps": [{"tool_name": "t", "input_mapping": {"v": value}}],
        }
        with pytest.raises(FlowSerializationError, match=says):
            flow_from_dict(data)


def test_the_flow_shares_nothing_with_the_dict():
    """A change of the dict after reading changes no flow, and the other way round."""
    data: dict[str, Any] = {
        "type": "Flow",
        "name": "x",
        "description": "",
        "steps": [{"tool_name": "t", "input_mapping": {"v": [1]}}],
    }
    flow = flow_from_dict(data)
    data["steps"][0]["input_mapping"]["v"].append(2)
    flow_to_dict(flow)["steps"][0]["input_mapping"]["v"].append(3)
    assert flow.steps[0].input_mapping == {"v": [1]}


def test_the_file_says_little_and_sorts_its_keys():
    """Defaults are left out; type, format_version and version never are."""
    flow = DAGFlow(
        name="sum",
        version="1.0",
        description="Adds up.",
        steps=[DAGFlowStep(step_id="a", tool_name="add", retry=RetryPolicy(max_retries=1))],
    )
    assert flow_to_yaml(flow) == (
        "description: Adds up.\n"
        'format_version: "1"\n'
        "name: sum\n"
        "steps:\n"
        "- retry:\n"
        "    max_retries: 1\n"
        "  step_id: a\n"
        "  tool_name: add\n"
        "type: DAGFlow\n"
        'version: "1.0"\n'
    )
    text = flow_to_json(flow, indent=None)
    assert text == json.dumps(json.loads(text), sort_keys=True) + "\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1,000", "1,000"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("0", 0),
        ("-12", -12),
        ("+3", 3),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("-0.0", -0.0),
        ("1.2.3", "1.2.3"),
        ('"010"', "010"),
        ("'1_000'", "1_000"),
        ("=", "="),
        ("|\n      a\n      b", "a\nb\n"),
    ],
)
def test_unquoted_scalars_mean_what_yaml_1_2_says(text, value):
    """The core schema: no sexagesimals, no dates, no truth values but true and false."""
    flow = flow_from_yaml(
        f"type: Flow\nname: x\ndescription: d\nsteps:\n- tool_name: t\n  input_mapping:\n    v: {text}\n"
    )
    found = flow.steps[0].input_mapping["v"]
    assert (found, type(found)) == (value, type(value))


def test_lenient_reading_drops_unknown_keys_and_warns_where_the_caller_stands():
    """strict=False: one warning per key, with the place and the name that was meant."""
    text = "type: Flow\nname: x\ndescription: d\nowner: me\nsteps:\n- tool_name: t\n  retries: 3\n"
    with pytest.warns(FlowFormatWarning) as caught:
        flow = flow_from_yaml(text, source="x.yaml", strict=False)
    assert flow == Flow(name="x", description="d", steps=[FlowStep(tool_name="t")])
    assert [str(one.message) for one in caught] == [
        "'x.yaml': /steps/0/retries: unknown key 'retries' is ignored (did you mean 'retry'?).",
        "'x.yaml': /owner: unknown key 'owner' is ignored.",
    ]
    assert {one.filename for one in caught} == {__file__}


def test_lenient_reading_still_refuses_the_rest():
    """Only unknown keys are passed over."""
    data = {"type": "Flow", "name": "x", "description": "d", "steps": 3, "owner": "me"}
    with pytest.raises(FlowSerializationError, match="/steps: expected a list, not 3"):
        flow_from_dict(data, strict=False)


def test_limits_can_be_set_and_are_inclusive():
    """A document of exactly the limit is read, one beyond is not."""
    data = {"type": "Flow", "name": "x", "description": "", "steps": [{"tool_name": "t"}, {"tool_name": "t"}]}
    assert len(flow_from_dict(data, limits=FlowParseLimits(max_steps=2)).steps) == 2
    with pytest.raises(FlowSerializationError, match="2 steps, more than 1"):
        flow_from_dict(data, limits=FlowParseLimits(max_steps=1))
    text = json.dumps(data)
    assert flow_from_json(text, limits=FlowParseLimits(max_bytes=len(text), max_nodes=9, max_depth=3))
    for tight in ({"max_bytes": len(text) - 1}, {"max_nodes": 8}, {"max_depth": 2}, {"max_string_length": 10}):
        with pytest.raises(FlowSerializationError):
            flow_from_json(text, limits=FlowParseLimits(**tight))
    with pytest.raises(ValueError, match="'max_depth' must be a whole number"):
        FlowParseLimits(max_depth=0)


def test_a_file_is_read_by_its_suffix_and_knows_where_its_steps_stand(tmp_path):
    """Step i of a file can be named as "file:line"."""
    flow = Flow(name="x", description="", steps=[FlowStep(tool_name="a"), FlowStep(tool_name="b")])
    for suffix, text in (("json", flow_to_json(flow)), ("yaml", flow_to_yaml(flow)), ("YML", flow_to_yaml(flow))):
        path = tmp_path / f"x.flow.{suffix}"
        path.write_text(text, encoding="utf-8")
        assert load_flow_file(path) == flow
    read = read_flow_file(tmp_path / "x.flow.yaml")
    assert read.flow == flow
    assert read.step_place(1) == f"{tmp_path / 'x.flow.yaml'}:6"


def test_other_suffixes_are_refused_and_missing_files_are_missing(tmp_path):
    """The suffix decides; a file that is not there stays an OSError."""
    with pytest.raises(FlowSerializationError, match="suffix"):
        load_flow_file(tmp_path / "x.toml")
    with pytest.raises(FileNotFoundError):
        load_flow_file(tmp_path / "x.json")


def test_without_libyaml_small_files_are_read_and_large_ones_refused(monkeypatch):
    """The pure Python parser reads the same, but is too slow for hostile input of full size."""
    yaml = yaml_text.yaml_library()
    flow = flow_from_dict(random_flow(3))
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    assert flow_from_yaml(flow_to_yaml(flow)) == flow
    with pytest.raises(FlowSerializationError, match="has no libyaml"):
        flow_from_yaml("#" * 70_000)
    for text in ("a: [", "a: &x 1", "a: 1\na: 2", 'a: "\\U00110000"', 'a: "\\ud800"', "[" * 60_000):
        with pytest.raises(FlowSerializationError, match=r"line 1|line 2"):
            flow_from_yaml(text)


def test_reading_json_imports_no_yaml():
    """PyYAML is imported with the first YAML text."""
    code = (
        "import sys; from chainweaver.formats import flow_from_dict, flow_to_json;"
        "flow_to_json(flow_from_dict({'type': 'Flow', 'name': 'x', 'description': '', 'steps': []}));"
        "print('yaml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
