"""Bad input: every file is refused with a typed error that names the place, quickly, and nothing crashes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chainweaver.exceptions import FlowSerializationError
from chainweaver.formats import (
    flow_from_dict,
    flow_from_json,
    flow_from_yaml,
    flow_to_json,
    flow_to_yaml,
    load_flow_file,
)
from tests.conftest import PROOF
from tests.formats.bad_files import BAD_FILES
from tests.formats.samples import garbled, random_flow

GENERATED = 2_000 if PROOF else 300
PLACE = re.compile(r"line \d+, column \d+|garbled:\d+")


def test_the_corpus_is_large_enough():
    """At least 60 hand-made files."""
    assert len(BAD_FILES) >= 60


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_with_its_place(name, tmp_path):
    """Typed error, the file as source, the place, and what to do; in under a second of processor time."""
    bad = BAD_FILES[name]
    path = tmp_path / f"bad.flow.{bad.suffix}"
    path.write_bytes(bad.data if isinstance(bad.data, bytes) else bad.data.encode("utf-8", "surrogatepass"))

    started = time.process_time()
    if name == "raw lone surrogate":
        # No UTF-8 file can hold one; a text in memory can.
        with pytest.raises(FlowSerializationError) as caught:
            flow_from_json(str(bad.data), source=str(path))
    else:
        with pytest.raises(FlowSerializationError) as caught:
            load_flow_file(path)
    spent = time.process_time() - started

    assert caught.value.source == str(path)
    assert bad.place in str(caught.value)
    assert bad.says in str(caught.value)
    assert len(str(caught.value)) < 20_000
    assert spent < 1.0


def test_the_interpreter_survives_the_worst_texts(tmp_path):
    """Bombs are read in a process of their own: it must end by itself, with the count of refusals as its last word."""
    bombs = [
        "[",
        "{",
        '{"a":',
        "{a: ",
        "- ",
        "? ",
        "[? ",
        "[[],",
        "!!x ",
        "&a ",
        "*a ",
        "'",
        '"',
        "\n ",
        "a:\n ",
        "%",
        "|",
        "---\n",
    ]
    script = tmp_path / "bombs.py"
    script.write_text(
        "import sys\n"
        "from chainweaver.exceptions import FlowSerializationError\n"
        "from chainweaver.formats import flow_from_json, flow_from_yaml\n"
        f"refused = 0\nfor bomb in {bombs!r}:\n"
        "    for read in (flow_from_json, flow_from_yaml):\n"
        "        try:\n"
        "            read(bomb * (1_000_000 // len(bomb)))\n"
        "        except FlowSerializationError:\n"
        "            refused += 1\n"
        "print(refused)\n",
        encoding="utf-8",
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(root)},
        cwd=root,
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(2 * len(bombs)), "")


def test_garbled_files_are_read_or_refused_but_never_anything_else():
    """Generated corpus: a typed error with a place, or a flow; each in under a second of processor time."""
    refused = 0
    for seed in range(GENERATED):
        flow = flow_from_dict(random_flow(seed))
        for text, read in ((flow_to_json(flow), flow_from_json), (flow_to_yaml(flow), flow_from_yaml)):
            started = time.process_time()
            try:
                read(garbled(text, seed), source="garbled")
            except FlowSerializationError as error:
                refused += 1
                assert PLACE.search(str(error)), (seed, str(error))  # noqa: PT017  # most texts, not all, are refused
            assert time.process_time() - started < 1.0, seed
    assert refused > GENERATED


def test_all_faults_of_a_file_are_named_at_once():
    """Three faults, three entries, each with its pointer and its line."""
    text = (
        "type: Flow\nname: x\nversion: 1.0\ndescription: ''\nsteps:\n  - {tool_nam: a}\n  - {tool_name: b, retry: 3}\n"
    )
    with pytest.raises(FlowSerializationError) as caught:
        flow_from_yaml(text, source="x.flow.yaml")
    assert str(caught.value) == (
        "Flow definition 'x.flow.yaml' is not valid: 3 problems.\n"
        "  /version: expected text, not 1.0 (x.flow.yaml:3).\n"
        "    fix     write it in quotes\n"
        "  /steps/0/tool_nam: unknown key 'tool_nam' (x.flow.yaml:6).\n"
        "    fix     did you mean 'tool_name'?\n"
        "  /steps/1/retry: expected a mapping, not 3 (x.flow.yaml:7)."
    )


def test_a_single_fault_lists_what_is_known():
    """Where, known and fix stand below the sentence."""
    with pytest.raises(FlowSerializationError) as caught:
        flow_from_json(json.dumps({"type": "flow"}), source="x.flow.json")
    assert str(caught.value) == (
        "Flow definition 'x.flow.json' is not valid: /type: the discriminator 'type' is 'flow'.\n"
        "  where   x.flow.json:1\n"
        "  known   Flow, DAGFlow\n"
        "  fix     did you mean 'Flow'?"
    )
