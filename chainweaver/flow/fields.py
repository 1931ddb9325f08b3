"""The field types and the base class that all definitions share.

Definitions are data that may come from a file, so numbers and flags are strict (`"3"` is no integer) and unknown keys
are errors. Nothing here knows what a flow or a step is.

Used by the other files of this room only.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "Definition",
    "Flag",
    "FrozenDefinition",
    "Names",
    "NonNegativeCount",
    "NonNegativeSeconds",
    "PositiveCount",
    "PositiveSeconds",
    "Text",
    "Words",
]


# The schemas of definitions are built when the first one is made (defer_build): building them, and loading Pydantic's
# plugins for that, would add a third to the import time of this package.
class Definition(BaseModel):
    """A piece of a flow definition: unknown keys are errors."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", defer_build=True)


class FrozenDefinition(BaseModel):
    """A piece of a flow definition whose fields cannot be assigned: it may be shared between flows."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", defer_build=True, frozen=True)


def _in_order(value: Any) -> Any:
    # The order of a set depends on PYTHONHASHSEED; the order of steps and keys never may.
    if isinstance(value, (set, frozenset)) and all(isinstance(item, str) for item in value):
        return sorted(value)
    return value


Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(min_length=1)]
Names = Annotated[list[Text], BeforeValidator(_in_order)]
Words = Annotated[tuple[Text, ...], BeforeValidator(_in_order)]
NonNegativeCount = Annotated[int, Field(strict=True, ge=0)]
PositiveCount = Annotated[int, Field(strict=True, ge=1)]
NonNegativeSeconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
