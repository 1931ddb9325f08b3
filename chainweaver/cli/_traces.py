"""Traces as files: the JSON of a result, as `run --trace` and `FileTraceStore` write it."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from chainweaver.exceptions import CommandLineError, violations
from chainweaver.objects.files import write_whole
from chainweaver.results import TRACE_SCHEMA_VERSION, ExecutionResult


def read_trace(path: str) -> ExecutionResult:
    """The result in a file.

    Raises:
        CommandLineError: There is no such file, or it holds no result.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise CommandLineError(f"There is no file '{path}'") from None
    except OSError as exc:
        raise CommandLineError(f"File '{path}' cannot be read: {exc.strerror}") from exc
    try:
        result = ExecutionResult.model_validate_json(data)
    except ValidationError as exc:
        raise CommandLineError(
            f"File '{path}' holds no trace: {violations(exc)}",
            invalid=True,
            fix="write one with: chainweaver run ... --trace FILE",
        ) from None
    if result.trace_schema_version != TRACE_SCHEMA_VERSION:
        found = result.trace_schema_version
        raise CommandLineError(
            f"File '{path}' holds a trace of version '{found}', this release reads '{TRACE_SCHEMA_VERSION}'",
            invalid=True,
        )
    return result


def check_target(path: str) -> None:
    """Refuse a place where nothing can be written, before a run has done its work for nothing.

    Raises:
        CommandLineError: The directory does not exist, or it is one itself.
    """
    folder = os.path.dirname(path) or os.curdir
    if os.path.isdir(path):
        raise CommandLineError(f"Trace cannot be written to '{path}': it is a directory")
    if not os.path.isdir(folder):
        raise CommandLineError(f"Trace cannot be written to '{path}': there is no directory '{folder}'")


def write_trace(result: ExecutionResult, path: str) -> None:
    """Write a result in one move.

    Raises:
        CommandLineError: The file cannot be written.
    """
    try:
        write_whole(Path(path), result.model_dump_json(indent=2).encode("utf-8") + b"\n", fsync=False)
    except OSError as exc:
        raise CommandLineError(f"Trace cannot be written to '{path}': {exc.strerror}") from exc
