"""Models and exceptions that the flows of these tests name by reference."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, RootModel, model_validator

from chainweaver import Stream


class Number(BaseModel):
    """Takes other keys as well, without saying what they are."""

    n: int


class Streamed(BaseModel):
    others: Stream[int]
    n: int


class Exactly(BaseModel):
    """Takes nothing else."""

    model_config = ConfigDict(extra="forbid")

    n: int


class Anything(BaseModel):
    """Takes whatever comes."""

    model_config = ConfigDict(extra="allow")

    n: int


class Text(BaseModel):
    n: list[int]


class More(BaseModel):
    n: int
    missing: str


class Perhaps(BaseModel):
    n: int
    missing: str = ""


class Person(BaseModel):
    name: str
    tags: list[str] = []


class Request(BaseModel):
    """An input with parts, an alias and a field that stays inside."""

    user: Person
    rows: list[Person]
    pair: tuple[int, str]
    prices: dict[str, float]
    limit: int = Field(10, validation_alias=AliasChoices("limit", "Limit"))
    hidden: int = Field(0, exclude=True)


class Noted(BaseModel):
    """Looks at one key, under either of its names, and then at itself."""

    note: Any = Field(None, validation_alias=AliasChoices("note", "remark"))

    @model_validator(mode="after")
    def look(self) -> Noted:
        return self


class NotedOpen(Noted):
    model_config = ConfigDict(extra="allow")


class NotedClosed(Noted):
    model_config = ConfigDict(extra="forbid")


class NotedBefore(Noted):
    """Looks at everything before it looks at its field."""

    @model_validator(mode="before")
    @classmethod
    def look_before(cls, values: Any) -> Any:
        return values


class NotedInit(Noted):
    def __init__(self, **values: Any) -> None:
        super().__init__(**values)


class NotedRoot(RootModel[dict[str, Any]]):
    """Is everything."""


class Unlucky(Exception):
    """Named by retry policies."""


class Outer:
    """Only a place for a class."""

    class NotAModel:
        """A class that is no model."""
