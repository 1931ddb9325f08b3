"""Which flow a sentence most likely asks for: counted words, no model.

The same sentence and the same flows give the same answer in every process. Called by the registry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from chainweaver.flow import AnyFlow

__all__ = ["best_match"]

_WORD: Final = re.compile(r"[^\W_]+")
_EMPTY_WORDS: Final = frozenset(
    {
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "by",
        "do",
        "for",
        "from",
        "i",
        "in",
        "is",
        "it",
        "me",
        "my",
        "of",
        "on",
    }
    | {"or", "our", "please", "that", "the", "this", "to", "use", "we", "when", "with", "you"}
)
_TRIGGER_WEIGHT, _NAME_WEIGHT, _DESCRIPTION_WEIGHT = 3, 2, 1


def best_match(text: str, flows: Iterable[AnyFlow]) -> AnyFlow | None:
    """The flow that shares the most words with the text; None when none shares any.

    A word counts most in the trigger conditions, less in the name, least in the description. Of equals the
    first one wins.
    """
    asked = _words(text)
    best, best_score = None, 0
    for flow in flows:
        score = _score(asked, flow)
        if score > best_score:
            best, best_score = flow, score
    return best


def _score(asked: frozenset[str], flow: AnyFlow) -> int:
    return (
        _TRIGGER_WEIGHT * len(asked & _words(flow.trigger_conditions or ""))
        + _NAME_WEIGHT * len(asked & _words(flow.name))
        + _DESCRIPTION_WEIGHT * len(asked & _words(flow.description))
    )


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.casefold())) - _EMPTY_WORDS
