"""Tools of installed packages: real metadata on the path, read by importlib.metadata."""

from __future__ import annotations

import pytest

from chainweaver.exceptions import PluginDiscoveryError
from chainweaver.tools import Tool, discover_tools
from tests.registry.kit import install

__all__ = ["install"]

TOOLS = """
from chainweaver import Tool, tool

def made(name):
    @tool(name=name)
    def fn(n: int) -> int:
        raise AssertionError("a tool is never called while it is looked for")
    return fn
"""


def names(tools):
    return [tool.name for tool in tools]


@pytest.fixture
def acme(install):
    """A package that offers one tool, several, a function that makes them, and a module that holds them."""
    install(
        "acme",
        """
        [chainweaver.tools]
        one = acme_tools:one
        some = acme_tools:SOME
        made = acme_tools:make
        whole = acme_more

        [chainweaver.flows]
        other = acme_tools:one
        """,
        acme_tools=TOOLS
        + """
one = made("one")
SOME = [made("some_b"), made("some_a"), one]

def make():
    return (made(name) for name in ("x", "y"))
""",
        acme_more="from acme_tools import made, one as again\nwhole = made('whole')\n",
    )


def test_installed_packages_can_offer_tools(acme):
    """api.md: entry points `chainweaver.tools`; an object, an iterable, a function, a module; each tool once."""
    found = discover_tools()
    assert names(found) == ["x", "y", "one", "some_b", "some_a", "whole"]
    assert all(isinstance(one, Tool) for one in found)


def test_a_broken_plugin_is_named_after_all_were_tried(acme, install):
    """api.md: E022; raised with all that is wrong, or told one by one while the others are used."""
    install(
        "broken",
        """
        [chainweaver.tools]
        a = broken_tools:MISSING
        b = broken_tools:SCHEMA
        z = broken_module
        """,
        broken_tools="from pydantic import BaseModel\nclass SCHEMA(BaseModel): pass\n",
        broken_module="1 / 0",
    )
    with pytest.raises(PluginDiscoveryError, match=r"'chainweaver\.tools:a'") as caught:
        discover_tools()
    assert "ZeroDivisionError" in caught.value.why
    errors: list[PluginDiscoveryError] = []
    assert names(discover_tools(on_error=errors.append)) == ["x", "y", "one", "some_b", "some_a", "whole"]
    assert [error.entry_point[-1] for error in errors] == ["a", "b", "z"]
    assert "package broken 1.2" in {error.where for error in errors}


def test_two_tools_of_one_name_are_an_error(acme, install):
    """R1: the order of packages decides nothing silently."""
    install("rival", "[chainweaver.tools]\nz = rival_tools:one\n", rival_tools=TOOLS + "one = made('one')\n")
    with pytest.raises(
        PluginDiscoveryError, match=r"another tool 'one' than plugin 'chainweaver\.tools:one'"
    ) as caught:
        discover_tools()
    assert caught.value.where == "package rival 1.2"
