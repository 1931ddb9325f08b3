"""What the compiler has to know about a model, read once per compilation.

Names, aliases and openness of models and of the tools that have them. Types are only pointed at (`FieldOf`); `types`
compares them. Made by `lower`, used by everybody in this room who looks at a schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import AliasChoices, AliasPath, BaseModel

from chainweaver.compiler.types import FieldOf

if TYPE_CHECKING:
    from chainweaver.compiler.compose import FlowFacts
    from chainweaver.tools import Tool


@dataclass(frozen=True, slots=True)
class InputField:
    """A field of a model as validation takes it.

    Attributes:
        name: Name of the field.
        key: The key under which a value has to be given.
        kind: Its type.
        required: There is no default.
    """

    name: str
    key: str
    kind: Any
    required: bool


class ModelFacts:
    """The names of a model.

    Attributes:
        model: The class.
        open: Instances may hold fields that the model does not name.
        closed: Keys that the model does not name are refused.
        fields: The fields in order.
        accepted: Every name that a mapping may use for a field -> the field.
        outputs: Output key -> type, for what instances put into the context.
        sure: The output keys of every instance.
        tolerant: Input keys that the model does not name are no mistake.
    """

    __slots__ = ("accepted", "closed", "fields", "model", "open", "outputs", "sure", "tolerant")

    def __init__(self, model: type[BaseModel]) -> None:
        # A model with forward references says what its fields are once it is complete.
        if not model.__pydantic_complete__:
            model.model_rebuild(raise_errors=False)
        self.model = model
        self.open = model.model_config.get("extra") == "allow"
        self.closed = model.model_config.get("extra") == "forbid"
        self.accepted: dict[str, InputField] = {}
        self.fields: list[InputField] = []
        by_name = bool(model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name"))
        for name, info in model.model_fields.items():
            self._add(name, info, by_name)
        shown = [name for name, info in model.model_fields.items() if not info.exclude]
        shown += model.model_computed_fields
        self.outputs: Mapping[str, Any] = {name: FieldOf(model, name) for name in shown}
        self.sure = frozenset(self.outputs)
        self.tolerant = self.open

    def _add(self, name: str, info: Any, by_name: bool) -> None:
        aliases, rooted = _aliases(info)
        taken_by_name = by_name or not (aliases or rooted)
        key = name if taken_by_name else (aliases or rooted)[0]
        kind = FieldOf(self.model, name) if taken_by_name or aliases else Any
        field = InputField(name, key, kind, info.is_required())
        self.fields.append(field)
        if taken_by_name or aliases:
            self.accepted[name] = field
        for alias in aliases:
            self.accepted[alias] = replace(field, key=alias)
        for root in rooted:
            # What lies at the root of a path is another type than the field, and nobody has written it down.
            self.accepted.setdefault(root, replace(field, key=root, kind=Any))

    @property
    def name(self) -> str:
        return self.model.__name__

    def field_names(self) -> list[str]:
        return [field.name for field in self.fields]


def _aliases(info: Any) -> tuple[list[str], list[str]]:
    """The keys that a field is validated from beside its name, and the keys below which it is looked for."""
    alias = info.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [] if alias is None else [alias]
    plain = [one for one in choices if isinstance(one, str)]
    rooted = [str(one.path[0]) for one in choices if isinstance(one, AliasPath)]
    return plain, rooted


Facts: TypeAlias = "ModelFacts | FlowFacts"
"""What is known of one side of a tool, or of what stands in its place."""


@dataclass(frozen=True, slots=True)
class KnownTool:
    """A registered tool with what it takes and gives; for a sub-flow or a capability, what stands for it.

    Attributes:
        call: The tool as it is for one call, where the step calls it once per chunk and gives something else.
    """

    tool: Tool
    takes: Facts
    gives: Facts
    call: KnownTool | None = None


class Catalogue:
    """The tools that a flow may name; a model is read when the first step asks for it.

    Attributes:
        names: All names, in alphabetical order.
    """

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self._tools = tools
        self._known: dict[str, KnownTool] = {}
        self._models: dict[type[BaseModel], ModelFacts] = {}
        self.names = sorted(tools)

    def find(self, name: str | None) -> KnownTool | None:
        """The tool of this name, None when there is none."""
        if name is None or name not in self._tools:
            return None
        known = self._known.get(name)
        if known is None:
            tool = self._tools[name]
            facts = self.facts_of(tool.input_schema), self.facts_of(tool.output_schema)
            known = self._known[name] = KnownTool(tool, *facts)
        return known

    def facts_of(self, model: type[BaseModel]) -> ModelFacts:
        """The facts about a model."""
        facts = self._models.get(model)
        if facts is None:
            facts = self._models[model] = ModelFacts(model)
        return facts
