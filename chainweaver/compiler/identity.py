"""When is a definition, or a step of it, the same as another one? Digests that say so.

`flow_digest` keys plans, step fingerprints let a resumed run see what has changed. Neither depends on the hash seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from chainweaver.canonical import Unfingerprintable, digest
from chainweaver.plan import PlanFacts, nested_place

if TYPE_CHECKING:
    from chainweaver.compiler.lower import Lowered
    from chainweaver.flow import DAGFlow, Flow
    from chainweaver.plan import PlannedStep

LEFT_OUT = frozenset({"status", "governance", "trigger_conditions", "description", "tool_schema_hashes", "groups"})
"""What a flow says about itself without changing any run."""


OF_ITS_OWN = frozenset({"name", "version", "steps"})
"""What a flow says about itself that is none of the business of a step which runs it."""


def flow_digest(flow: Flow | DAGFlow) -> str:
    """Content digest of a definition: 32 hex characters.

    What changes no run (status, governance, description, groups) is left out, and so are fields at their default.

    Raises:
        Unfingerprintable: A literal in a mapping has no canonical form, such as an open file.

    >>> from chainweaver import Flow, FlowStep
    >>> one = Flow(name="f", description="One.", steps=[FlowStep(tool_name="t")])
    >>> other = Flow(name="f", description="Another.", steps=[FlowStep(tool_name="t", on_error="fail")])
    >>> flow_digest(one) == flow_digest(other)
    True
    """
    own = {name: value for name, value in _own(flow).items() if name not in LEFT_OUT}
    return digest((type(flow).__name__, {**own, "steps": [_own(step) for step in flow.steps]}))


def _own(definition: BaseModel) -> dict[str, Any]:
    """The fields that are not at their default: half the digest of a step would be made of those."""
    defaults = _defaults(type(definition))
    return {
        name: value
        for name, value in vars(definition).items()
        if name not in defaults or type(value) is not type(defaults[name]) or value != defaults[name]
    }


@lru_cache(maxsize=16)
def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    return {
        name: info.get_default(call_default_factory=True)
        for name, info in kind.model_fields.items()
        if not info.is_required()
    }


MANNER = frozenset({"retry", "timeout_seconds", "map_concurrency"})
"""What a step says about how it is called. Once it has answered, its answer depends on none of it."""


def late_step_fingerprint(step: Lowered, sub_flow: Flow | DAGFlow | None = None) -> Callable[[], str]:
    """What makes a step the same step at resume: its definition and the schemas of its tools; computed on demand.

    Args:
        sub_flow: The flow that it runs. What that takes and gives belongs to the step; its steps are compared one by
            one, and a version of its own is no difference.
    """
    definition = step.definition
    tools = [known.tool for known in (*step.callees, *filter(None, (step.combiner,)))]

    # Runs with a checkpointer ask for it at every step, all others never.
    @cache
    def fingerprint() -> str:
        own = {name: value for name, value in _own(definition).items() if name not in MANNER}
        own["input_mapping"] = {field: _content(value) for field, value in definition.input_mapping.items()}
        if sub_flow is not None:
            taken = {name: value for name, value in _own(sub_flow).items() if name not in (*LEFT_OUT, *OF_ITS_OWN)}
            own["sub_flow"] = taken
        return digest((own, [tool.schema_hash for tool in tools]))[:16]

    return fingerprint


def _content(value: Any) -> str:
    """What stands for a mapped value: the same in every process, whatever the hash seed and the order of keys."""
    try:
        return digest(value)
    except Unfingerprintable:
        # Resumed in another process, such a literal is another object all the same.
        return f"a {type(value).__qualname__}"


def plan_facts(steps: Sequence[PlannedStep]) -> PlanFacts:
    """What a checkpoint notes about the plan that these steps make up."""
    levels = Counter(step.level for step in steps)
    return PlanFacts(
        heads=tuple((step.index, step.step_id, step.name, step.fingerprint()) for step in steps),
        tool_hashes={step.tool.name: step.tool.schema_hash() for step in steps if step.tool is not None},
        step_fingerprints={step.step_id: step.fingerprint() for step in steps} | dict(_steps_around(steps)),
        level_sizes=tuple(levels.values()),
        output_mappings={step.step_id: dict(step.rename) for step in steps if step.rename is not None},
    )


def _steps_around(steps: Sequence[PlannedStep], outer: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Place and fingerprint of the nested steps that run steps themselves: these may be stored while they are not."""
    for step in steps:
        item = step if step.each is None else step.each.step
        place = (*outer, step.step_id)
        if outer and (step.each is not None or item.child is not None):
            yield nested_place(place), step.fingerprint()
        if item.child is not None:
            yield from _steps_around(item.child.steps, place)
