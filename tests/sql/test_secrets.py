"""Secrets and stores: what a run was given in confidence is in no file, no log, no text of an error and no result.

Searched byte-wise: the database and its log, files beside it, what was logged, what was raised and what was returned.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typing_extensions import TypedDict

from chainweaver import (
    ChainWeaverError,
    FileCheckpointer,
    FileStepCache,
    Flow,
    FlowExecutor,
    FlowStep,
    RedactionPolicy,
    tool,
)
from chainweaver.sql import open_store

SECRET = "correct-horse-battery-staple"


class Token(TypedDict):
    token: SecretStr


@tool
def log_in(password: SecretStr) -> Token:
    """A token that must not be kept."""
    return {"token": SecretStr(SECRET)}


@tool(output="length")
def use(password: SecretStr) -> int:
    """Needs it, and keeps nothing of it."""
    return len(password.get_secret_value())


@tool(output="never")
def leak(password: SecretStr) -> int:
    """Says too much when it fails."""
    raise ValueError(f"login with password={password.get_secret_value()} refused for {password.get_secret_value()}")


def flow(*steps: FlowStep, **fields: Any) -> Flow:
    return Flow(name="secrets", version="1.0.0", description="", steps=list(steps), **fields)


USE = FlowStep(tool_name="use", input_mapping={"password": "password"})
LOG_IN = FlowStep(tool_name="log_in", input_mapping={"password": "password"})
LEAK = FlowStep(tool_name="leak", input_mapping={"password": "password"})
STORIES: dict[str, tuple[Flow, dict[str, Any], dict[str, Any]]] = {
    "an input": (flow(USE), {"password": SecretStr(SECRET)}, {}),
    "an output": (flow(LOG_IN, dynamic_params=["password"]), {}, {"password": SecretStr(SECRET)}),
    "a parameter": (flow(USE, dynamic_params=["password"]), {}, {"password": SecretStr(SECRET)}),
    "an error": (flow(LEAK, dynamic_params=["password"]), {}, {"password": SecretStr(SECRET)}),
    "an error that is skipped": (
        flow(LEAK.model_copy(update={"on_error": "skip"}), USE, dynamic_params=["password"]),
        {},
        {"password": SecretStr(SECRET)},
    ),
}  # fmt: skip


def where_it_is(folder: Path) -> list[str]:
    """The files that hold the secret, as text or in any of its forms that an encoder makes of it."""
    return [path.name for path in sorted(folder.rglob("*")) if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("place", ["database", "files"])
def test_no_secret_is_in_any_file_or_text(
    story: str, place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """R34, R39: of input, output, parameter and error, whether the run ends well or not."""
    caplog.set_level(logging.DEBUG)
    definition, given, passed = STORIES[story]
    store = open_store(f"sqlite:///{tmp_path}/runs.db") if place == "database" else None
    stores: dict[str, Any] = (
        {"checkpointer": FileCheckpointer(tmp_path / "runs"), "step_cache": FileStepCache(tmp_path / "cache")}
        if store is None
        else {"checkpointer": store.runs, "step_cache": store.cache}
    )
    texts: list[str] = []
    with FlowExecutor(
        tools=[log_in, use, leak],
        flows=[definition],
        redaction_policy=RedactionPolicy(),
        delete_on_success=False,
        **stores,
    ) as executor:
        try:
            result = executor.execute_flow("secrets", given, dynamic_params=passed or None)
        except ChainWeaverError as exc:
            texts.append(str(exc))
        else:
            texts += [repr(result), str(result.execution_log), result.model_dump_json()]
        for trace_id in stores["checkpointer"].list_trace_ids():
            texts.append(repr(stores["checkpointer"].load(trace_id)))
            try:
                again = executor.resume_flow(trace_id, dynamic_params=passed or None)
                texts += [repr(again), str(again.execution_log), again.model_dump_json()]
            except ChainWeaverError as exc:
                texts.append(str(exc))
        if store is not None:
            texts.append(repr(store.runs.list_runs()))
            assert where_it_is(tmp_path) == [], "also while the log of the database is there"
            store.close()
    assert where_it_is(tmp_path) == []
    assert [text for text in texts if SECRET in text] == []
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{SECRET}@127.0.0.1:1/runs",
        f"mysql://ada:{SECRET}@host/runs",
        f"sqlite://ada:{SECRET}@host/runs",
        f"{SECRET}",
    ],
)
def test_a_password_in_a_url_that_cannot_be_opened_is_not_repeated(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """R39: what is wrong with a URL can be said without it."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Exception) as caught:
        open_store(url, patience_s=0.2)
    assert SECRET not in f"{caught.value!s}{caught.value!r}{caplog.text}"
