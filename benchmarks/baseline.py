"""An interpretive engine to compare with: correct, dynamic, and slow for four well-known reasons.

For every step it builds its dispatch table anew, copies the whole context, fills templates by one `replace` per context
key, and formats a log message whether or not somebody reads it. Many home-grown workflow engines look like this. It is
a measuring rod and no part of the package.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from benchmarks.shapes import Shape, TypedStep

_log = logging.getLogger("benchmarks.baseline")


class InterpretiveEngine:
    """Runs a list of step documents `{"kind": "tool", "name": ..., "inputs": {field: "~~key~~"}}`."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.tools = {step.name: step for step in shape.steps}
        self.documents: list[dict[str, Any]] = [
            {"kind": "tool", "name": step.name, "inputs": {field: f"~~{key}~~" for field, key in step.reads}}
            for step in shape.steps
        ]

    def run(self) -> dict[str, Any]:
        """One whole run; returns the final context."""
        context = dict(self.shape.initial)
        records: list[dict[str, Any]] = []
        for document in self.documents:
            _log.debug(f"step {document['name']} with context {context}")  # formatted at any level: that is measured
            context = self._dispatch()[document["kind"]](document, dict(context))
            records.append({"name": document["name"], "context": context})
        return context

    def _dispatch(self) -> dict[str, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]]:
        """The table of step kinds, of which these shapes use one."""
        return {
            "tool": self._run_tool,
            "set": lambda document, context: {**context, **document["values"]},
            "drop": lambda document, context: {k: v for k, v in context.items() if k not in document["keys"]},
            "rename": lambda document, context: {document["names"].get(k, k): v for k, v in context.items()},
            "template": lambda document, context: {**context, document["key"]: self._fill(document["text"], context)},
            "noop": lambda document, context: context,
        }

    def _run_tool(self, document: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
        step: TypedStep = self.tools[document["name"]]
        given = {field: self._fill(text, context) for field, text in document["inputs"].items()}
        inputs = step.input_model.model_validate(given)
        context.update(step.output_model.model_validate(step.fn(inputs)).model_dump())
        return context

    def _fill(self, text: str, context: dict[str, Any]) -> str:
        for key, value in context.items():
            text = text.replace(f"~~{key}~~", str(value))
        return text
