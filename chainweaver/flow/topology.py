"""Whether the steps of a DAG fit together: unique ids, known dependencies and targets, no circle.

Without recursion and without sets that are iterated, so that a chain of any length is checked and a message is the
same in every process. Called at registration and by the compiler.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Final

from chainweaver.exceptions import LISTED_NAMES, DAGDefinitionError, suggest
from chainweaver.flow.definition import DAGFlow
from chainweaver.flow.steps import DAGFlowStep

__all__ = ["validate_dag_topology"]

_SUGGESTIONS: Final = 20


def validate_dag_topology(dag: DAGFlow) -> None:
    """Check that the steps of a flow form a DAG.

    Every offender of the first kind that is found is named; the kinds are looked for in the order below.

    Raises:
        DAGDefinitionError: `reason` is `"duplicate_step_id"`, `"unknown_dependency"`, `"cycle"` (the detail shows the
            path in the direction of the run) or `"unknown_branch_target"` (also for a target that is no direct
            dependent).
    """
    steps = {step.step_id: step for step in dag.steps}
    _check_ids(dag)
    _check_dependencies(dag, steps)
    _check_cycles(dag, steps)
    _check_targets(dag, steps)


def _check_ids(dag: DAGFlow) -> None:
    counts = Counter(step.step_id for step in dag.steps)
    twice = [f"step id '{step_id}' is used {count} times" for step_id, count in counts.items() if count > 1]
    if twice:
        raise DAGDefinitionError(
            dag.name, "duplicate_step_id", "; ".join(twice), fix="give every step an id of its own"
        )


def _check_dependencies(dag: DAGFlow, steps: Mapping[str, DAGFlowStep]) -> None:
    unknown = [
        (step.step_id, name) for step in dag.steps for name in dict.fromkeys(step.depends_on) if name not in steps
    ]
    if unknown:
        detail = "; ".join(f"step '{step_id}' depends on unknown step '{name}'" for step_id, name in unknown)
        raise DAGDefinitionError(
            dag.name,
            "unknown_dependency",
            detail,
            known=list(steps),
            fix=_nearest([name for _, name in unknown], steps),
        )


def _check_targets(dag: DAGFlow, steps: Mapping[str, DAGFlowStep]) -> None:
    faults: list[str] = []
    unknown: list[str] = []
    for step in dag.steps:
        for target in _targets(step):
            if target not in steps:
                unknown.append(target)
                faults.append(f"step '{step.step_id}' branches to unknown step '{target}'")
            elif step.step_id not in steps[target].depends_on:
                faults.append(f"step '{step.step_id}' branches to '{target}', which does not depend on it directly")
    if faults:
        # A target that is not there cannot be made to depend on anything.
        otherwise = "add the branching step to 'depends_on' of its target"
        fix = _nearest(unknown, steps) or ("name one of the known steps" if unknown else otherwise)
        raise DAGDefinitionError(dag.name, "unknown_branch_target", "; ".join(faults), known=list(steps), fix=fix)


def _targets(step: DAGFlowStep) -> list[str]:
    named = [edge.target_step_id for edge in step.branches]
    if step.default_next is not None:
        named.append(step.default_next)
    return list(dict.fromkeys(named))


def _nearest(unknown: Sequence[str], steps: Mapping[str, DAGFlowStep]) -> str | None:
    # Comparing one name with thousands is slow; nobody reads more than a few suggestions either.
    near = {name: suggest(name, steps) for name in list(dict.fromkeys(unknown))[:_SUGGESTIONS]}
    found = [f"'{known}' for '{name}'" for name, known in near.items() if known]
    if not found:
        return None
    if len(near) == 1:
        return f"did you mean '{next(iter(near.values()))}'?"
    return f"did you mean {', '.join(found)}?"


def _check_cycles(dag: DAGFlow, steps: Mapping[str, DAGFlowStep]) -> None:
    stuck = _never_ready(dag)
    if not stuck:
        return
    place = {step_id: at for at, step_id in enumerate(steps)}
    circles = [" -> ".join(_from_first(circle, place)) for circle in _circles(stuck)]
    shown = "; ".join(circles[:LISTED_NAMES])
    more = f"; and {len(circles) - LISTED_NAMES} more" if len(circles) > LISTED_NAMES else ""
    raise DAGDefinitionError(
        dag.name,
        "cycle",
        f"steps wait for each other: {shown}{more}",
        fix="remove one of the dependencies from 'depends_on'",
    )


def _never_ready(dag: DAGFlow) -> dict[str, list[str]]:
    """The steps that would wait forever, each with those of its dependencies that do so too."""
    waiting = {step.step_id: len(set(step.depends_on)) for step in dag.steps}
    dependents: dict[str, list[str]] = {step.step_id: [] for step in dag.steps}
    for step in dag.steps:
        for name in dict.fromkeys(step.depends_on):
            dependents[name].append(step.step_id)
    ready = deque(step_id for step_id, count in waiting.items() if count == 0)
    while ready:
        for dependent in dependents[ready.popleft()]:
            waiting[dependent] -= 1
            if waiting[dependent] == 0:
                ready.append(dependent)
    return {
        step.step_id: [name for name in dict.fromkeys(step.depends_on) if waiting[name]]
        for step in dag.steps
        if waiting[step.step_id]
    }


def _circles(stuck: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Circles without a step in common, found by walking from each stuck step to its first stuck dependency."""
    found: list[list[str]] = []
    walked: set[str] = set()
    for start in stuck:
        walk: dict[str, int] = {}
        current = start
        while current not in walked:
            walked.add(current)
            walk[current] = len(walk)
            current = stuck[current][0]
        if current in walk:
            found.append(list(walk)[walk[current] :])
    return found


def _from_first(circle: Sequence[str], place: Mapping[str, int]) -> list[str]:
    """The circle in the direction of the run, from its first declared step back to it."""
    onwards = list(reversed(circle))
    first = min(range(len(onwards)), key=lambda at: place[onwards[at]])
    turned = onwards[first:] + onwards[:first]
    return [*turned, turned[0]]
