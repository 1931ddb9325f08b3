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
    CheckpointEncodeError,
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
OWN = {"partial_output"}
"""What a run that failed hands back to whoever called it, the input included as it was given."""

INNER = Flow(name="inner", version="1.0.0", description="", steps=[USE])
STORIES: dict[str, tuple[Flow, dict[str, Any], dict[str, Any]]] = {
    "an input": (flow(USE), {"password": SecretStr(SECRET)}, {}),
    "an input that is a text": (flow(USE), {"password": SECRET}, {}),
    "an input that is a text, under another name": (
        flow(FlowStep(tool_name="use", input_mapping={"password": "pin"})), {"pin": SECRET}, {},
    ),
    "an input of a sub-flow that is a text": (
        flow(FlowStep(flow_name="inner", input_mapping={"password": "pin"})), {"pin": SECRET}, {},
    ),
    "an input for each item that is a text": (
        flow(FlowStep(tool_name="use", map_over="all", map_as="one", input_mapping={"password": "pin"})),
        {"all": [1, 2], "pin": SECRET},
        {},
    ),
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
        flows=[definition, INNER],
        redaction_policy=RedactionPolicy(),
        delete_on_success=False,
        **stores,
    ) as executor:
        try:
            result = executor.execute_flow("secrets", given, dynamic_params=passed or None)
        except ChainWeaverError as exc:
            texts.append(str(exc))
        else:
            texts += [repr(result), str(result.execution_log), result.model_dump_json(exclude=OWN)]
        for trace_id in stores["checkpointer"].list_trace_ids():
            texts.append(repr(stores["checkpointer"].load(trace_id)))
            try:
                again = executor.resume_flow(trace_id, dynamic_params=passed or None)
                texts += [repr(again), str(again.execution_log), again.model_dump_json(exclude=OWN)]
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


@pytest.mark.parametrize("place", ["database", "files"])
def test_no_parameter_is_in_any_file_without_a_policy_either(place: str, tmp_path: Path) -> None:
    """R34, R39: what is passed as a dynamic parameter is passed in confidence."""
    definition, given, passed = STORIES["an error that is skipped"]
    store = open_store(f"sqlite:///{tmp_path}/runs.db") if place == "database" else None
    checkpointer: Any = FileCheckpointer(tmp_path / "runs") if store is None else store.runs
    with FlowExecutor(
        tools=[use, leak], flows=[definition], checkpointer=checkpointer, delete_on_success=False
    ) as executor:
        for value in (passed["password"], SECRET):
            assert executor.execute_flow("secrets", given, dynamic_params={"password": value}).success
        assert len(checkpointer.list_trace_ids()) == 2
        assert where_it_is(tmp_path) == []
    if store is not None:
        store.close()


def test_a_secret_that_is_a_text_is_refused_with_the_way_to_pass_it(tmp_path: Path) -> None:
    """R34: nothing is admitted, and the error says where the value may be passed."""
    definition, given, _ = STORIES["an input that is a text"]
    with (
        open_store(f"sqlite:///{tmp_path}/runs.db") as store,
        FlowExecutor(tools=[use], flows=[definition], checkpointer=store.runs) as executor,
    ):
        with pytest.raises(CheckpointEncodeError, match=r"'password' of flow 'secrets'.*secret[\s\S]*dynamic_params"):
            executor.execute_flow("secrets", given).raise_for_failure()
        assert store.runs.list_runs() == []
