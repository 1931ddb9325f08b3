"""Flows, flow files and installed packages for the tests of this room and of discovered tools."""

from __future__ import annotations

import itertools
import os
import sys
import textwrap
from pathlib import Path

import pytest

from chainweaver.flow import Flow, FlowStep

TICKS = itertools.count(0, 1_000_000_000)


def a_flow(name="a", version="1.0", description="Adds up.", **fields):
    """A flow of one step."""
    return Flow(
        **{
            "name": name,
            "version": version,
            "description": description,
            "steps": [FlowStep(tool_name="t")],
            **fields,
        }
    )


def write(path, flow):
    """Write a flow file, with a date that no file had before."""
    put(path, flow.to_yaml() if path.suffix != ".json" else flow.to_json())


def put(path, text):
    """Write a file, with a date that no file had before."""
    path.write_text(text, encoding="utf-8")
    # Two writes within one tick of the clock of the file system still are two states.
    tick = next(TICKS)
    os.utime(path, ns=(tick, tick))


def put_aside(directory, flow):
    """Write a flow file as editors do: under another name, to be renamed."""
    path = directory / ".a.flow.json.swp"
    put(path, flow.to_json())
    return path


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package: its modules and its metadata lie in a directory of the path, as pip leaves them."""
    before = set(sys.modules)

    def install(package, entry_points, **modules):
        site: Path = tmp_path / f"site_{package}"
        metadata = site / f"{package}-1.2.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (metadata / "entry_points.txt").write_text(textwrap.dedent(entry_points))
        for name, source in modules.items():
            (site / f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(site)
        return site

    yield install
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
