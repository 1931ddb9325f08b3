"""What a map over many large items needs at its peak: its inputs, its outputs, and little beside them."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from pydantic import BaseModel

from chainweaver import Flow, FlowExecutor, FlowStep, Tool
from tests.conftest import PROOF

ITEMS, BYTES = 10_000 if PROOF else 2_000, 10_000
LIMIT = 1.2


class Page(BaseModel):
    page: bytes


class Cleaned(BaseModel):
    cleaned: bytes


class Pages(BaseModel):
    cleaned: list[bytes]


class Bound(BaseModel):
    bound: list[bytes]


class Shelved(BaseModel):
    shelved: list[bytes]


def clean(given: Page) -> dict[str, Any]:
    return {"cleaned": bytes(len(given.page))}


def bind(given: Pages) -> dict[str, Any]:
    return {"bound": [bytes(len(page)) for page in given.cleaned]}


def shelve(given: Bound) -> dict[str, Any]:
    return {"shelved": [bytes(len(page)) for page in given.bound]}


TOOLS = [
    Tool(name="clean", description="", input_schema=Page, output_schema=Cleaned, fn=clean),
    Tool(name="bind", description="", input_schema=Pages, output_schema=Bound, fn=bind),
    Tool(name="shelve", description="", input_schema=Bound, output_schema=Shelved, fn=shelve),
]
EACH = FlowStep(tool_name="clean", map_over="pages", map_as="page")
CLEANING = Flow(name="book", description="", steps=[EACH], outputs=["cleaned"])
AFTER = [FlowStep(tool_name="bind"), FlowStep(tool_name="shelve")]
SHELVING = Flow(name="book", description="", steps=[EACH, *AFTER], outputs=["shelved"])


def peak_over_payload(flow: Flow, parts: int, **options: Any) -> float:
    """The most that was held at once, inputs included, over the bytes of the pages that must be held."""
    with FlowExecutor(tools=TOOLS, flows=[flow], **options) as executor:
        executor.execute_flow("book", {"pages": [b"warm"]})
        tracemalloc.start()
        try:
            pages = [bytes(BYTES) for _ in range(ITEMS)]
            result = executor.execute_flow("book", {"pages": pages})
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(result.final_output[flow.outputs[0]]) == ITEMS  # type: ignore[index]
        return peak / (parts * ITEMS * BYTES)


@pytest.mark.parametrize("limit", [1, 16])
def test_a_map_that_keeps_summaries_peaks_at_its_inputs_and_outputs(limit: int):
    """R28, R36: with `trace_values="summary"` an item of 10 kB is held once as it came and once as it left."""
    assert peak_over_payload(CLEANING, 2, trace_values="summary", max_step_concurrency=limit) <= LIMIT


def test_what_no_step_reads_any_more_is_gone_while_the_next_one_runs():
    """R37: the last of three steps holds what it reads and what it makes, and the caller the input: three, not four."""
    assert peak_over_payload(SHELVING, 3, trace_values="summary") <= LIMIT
    assert peak_over_payload(SHELVING, 3) > LIMIT
