"""What a flow does for nobody: steps that no path reaches, outputs that nothing reads, keys that are hidden.

Warnings only: such a flow runs. Called by `build` once all steps have been bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chainweaver.compiler.findings import Findings
from chainweaver.compiler.keys import INITIAL, Visible
from chainweaver.flow import DAGFlowStep, SideEffectLevel

if TYPE_CHECKING:
    from chainweaver.compiler.lower import Lowered


def warn_of_unreachable(steps: Sequence[Lowered], findings: Findings) -> None:
    """Warn of steps that no branch can lead to."""
    reached: list[bool] = []
    for step in steps:
        live = not step.needs or any(reached[need] and _leads_to(steps[need], step) for need in step.needs)
        reached.append(live)
        if not live:
            named = ", ".join(f"'{steps[need].label}'" for need in step.needs)
            detail = f"no branch of {named} leads here; name the step in a branch or in default_next"
            findings.warning(step, "unreachable_step", detail)


def _leads_to(parent: Lowered, step: Lowered) -> bool:
    definition = parent.definition
    if not isinstance(definition, DAGFlowStep) or not parent.branches:
        return True
    # Without a default all dependents run when no branch holds (R24).
    targets = [edge.target_step_id for edge in definition.branches]
    return definition.default_next is None or step.step_id in (*targets, definition.default_next)


def warn_of_hidden(steps: Sequence[Lowered], visible: Visible, findings: Findings) -> None:
    """Warn of keys that nobody can read: hidden by a dynamic parameter, or overwritten before anything reads them."""
    owner: dict[str, int] = dict.fromkeys(visible.initial.keys, INITIAL)
    for step in steps:
        for key in visible.writes[step.index].keys:
            before = owner.get(key)
            owner[key] = step.index
            if key in visible.dynamic:
                detail = f"key '{key}' is hidden by the dynamic parameter of that name; rename it with output_mapping"
                findings.warning(step, "shadowed_key", detail, key)
            elif (
                before is not None and _level(steps, before) < step.level and not _is_read(visible, steps, before, key)
            ):
                whose = "of the flow's input" if before == INITIAL else f"of step '{steps[before].label}'"
                detail = f"key '{key}' {whose} is overwritten before anything reads it; rename one with output_mapping"
                findings.warning(step, "shadowed_key", detail, key)


def warn_of_unused(steps: Sequence[Lowered], visible: Visible, findings: Findings) -> None:
    """Warn of steps none of whose outputs is read.

    Asked only of flows that name their `outputs`. Steps whose tools declare effects are there for those.
    """
    for step in steps:
        keys = visible.writes[step.index].keys
        if not keys or _has_effects(step) or any(_is_read(visible, steps, step.index, key) for key in keys):
            continue
        named = ", ".join(f"'{key}'" for key in keys)
        detail = f"nothing reads {named}; remove the step, or name a key of it in outputs"
        findings.warning(step, "unused_output", detail, next(iter(keys)))


def _is_read(visible: Visible, steps: Sequence[Lowered], writer: int, key: str) -> bool:
    return _level(steps, writer) < visible.read_up_to or writer in visible.reads.get(key, ())


def _level(steps: Sequence[Lowered], writer: int) -> int:
    return INITIAL if writer == INITIAL else steps[writer].level


def _has_effects(step: Lowered) -> bool:
    tool = None if step.primary is None else step.primary.tool
    return tool is None or (tool.safety_declared and tool.safety.side_effects >= SideEffectLevel.WRITE)
