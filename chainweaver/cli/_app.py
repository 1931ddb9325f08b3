"""The application: finds the commands, calls the one that was asked for, shows what it answers.

A module of this package whose name does not begin with an underscore is a command; its function of the same name takes
the options and returns an `Answer`. A module with `COMMANDS` is a group of them, by their names. Whatever goes wrong in
a command becomes a message and an exit status here.
"""

from __future__ import annotations

import contextlib
import functools
import pkgutil
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from chainweaver.cli._answer import INTERRUPTED, MISSING, Answer, Fault, envelope, show_faults, wants_json
from chainweaver.cli._options import Format
from chainweaver.cli._screen import Screen
from chainweaver.exceptions import CommandLineError

# typer carries click inside or beside it, depending on its version; both have this class above BadParameter.
_UsageError: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def build() -> typer.Typer:
    """The application with all its commands, in alphabetical order."""
    app = typer.Typer(name="chainweaver", add_completion=False, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True)(_chainweaver)
    for name in command_names():
        module = import_module(f"{__package__}.{name}")
        commands: dict[str, Callable[..., Answer]] | None = getattr(module, "COMMANDS", None)
        if commands is None:
            app.command(name)(_answering(getattr(module, name)))
        else:
            app.add_typer(_group(commands), name=name, help=module.HELP)
    return app


def _group(commands: dict[str, Callable[..., Answer]]) -> typer.Typer:
    group = typer.Typer(add_completion=False)
    group.callback(invoke_without_command=True)(_shows_help)
    for name, command in commands.items():
        group.command(name)(_answering(command))
    return group


def _shows_help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def command_names() -> list[str]:
    """The commands: the modules of this package that are not private.

    >>> "run" in command_names()
    True
    """
    package = sys.modules[__package__]
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def carry_out(args: Sequence[str]) -> int:
    """Carry out a command line and return the exit status.

    Raises:
        KeyboardInterrupt: Between two commands' work; inside a command it is answered like any other ending.
    """
    command = typer.main.get_command(build())
    try:
        status = command.main(args=list(args), prog_name="chainweaver", standalone_mode=False)
    except _UsageError as exc:
        error = CommandLineError(exc.format_message(), fix=f"{_called(exc)} --help")
        return show_faults(Answer(faults=(Fault.of(error),), exit_code=MISSING), as_json=wants_json(args))
    except BrokenPipeError:
        # Whoever read us has gone. The interpreter would complain once more when it flushes at exit.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.close()
        return 1
    return status if isinstance(status, int) else 0


def _called(exc: BaseException) -> str:
    context = getattr(exc, "ctx", None)
    return "chainweaver" if context is None else str(context.command_path)


def _chainweaver(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Check, draw and run flows of typed tools."""
    if version:
        print(f"chainweaver {sys.modules['chainweaver'].__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def _answering(command: Callable[..., Answer]) -> Callable[..., None]:
    """The command as typer calls it: it shows its answer and exits with its status."""

    @functools.wraps(command)
    def called(**options: object) -> None:
        as_json = options["output"] is Format.JSON
        answer = _answer_of(command, options, as_json)
        screen = Screen()
        if as_json:
            print(envelope(answer))
        elif answer.text is not None:
            answer.text(screen)
        if answer.error is not None and options.get("traceback"):
            # What a tool raised is the point; the way through the run core is the same for all of them.
            traceback.print_exception(answer.error.__cause__ or answer.error)
        if not as_json:
            screen.faults(answer.faults)
        raise typer.Exit(answer.exit_code)

    # typer looks at what a command takes, and it returns nothing any more.
    called.__annotations__ = {**command.__annotations__, "return": None}
    return called


def _answer_of(command: Callable[..., Answer], options: dict[str, object], as_json: bool) -> Answer:
    # What tools print must not get between the lines of the envelope.
    aside = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    try:
        with aside:
            return command(**options)
    except KeyboardInterrupt:
        return Answer(faults=(Fault("CW-E012", "Interrupted."),), exit_code=INTERRUPTED)
    except BrokenPipeError:
        raise
    except Exception as exc:
        return Answer.of_error(exc)
