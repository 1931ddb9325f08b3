"""The command line `chainweaver`: one module per command, found by its name.

This file only says whether the command line can start; `_app` has the commands. typer and rich are the extra `cli` and
are imported behind `main`, so that importing this package costs nothing and works without them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from chainweaver.cli._answer import INTERRUPTED, Answer, show_faults, wants_json
from chainweaver.exceptions import MissingExtraError

__all__ = ["main"]

_NEEDED = ("typer", "rich")


def main(args: Sequence[str] | None = None) -> int:
    """Carry out one command line.

    Args:
        args: What stands behind the name of the program. None: what this process was called with.

    Returns:
        The exit status: 0 ok, 1 invalid or failed, 2 a file, a module or the command line itself is not right, 130
        interrupted.
    """
    given = sys.argv[1:] if args is None else list(args)
    _print_anything()
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        error = MissingExtraError("cli", "The command line", why=f"not installed: {', '.join(missing)}")
        return show_faults(Answer.of_error(error), as_json=wants_json(given))
    try:
        from chainweaver.cli._app import carry_out

        return carry_out(given)
    except KeyboardInterrupt:
        return INTERRUPTED


def _print_anything() -> None:
    """Let a terminal with a small alphabet show an escape instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
