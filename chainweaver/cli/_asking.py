"""Who answers the questions of a run that was started from a shell: what was said on the command line beforehand.

`--approve` agrees to calls of tools that require an approval, `--decide` names the tool of a deciding step. Nobody is
asked while the run goes on, and what was not answered beforehand is denied, or fails, with the option that would help.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from chainweaver.exceptions import ApprovalDeniedError, CommandLineError, DecisionCallbackError, suggest
from chainweaver.flow import AnyFlow
from chainweaver.flow.callbacks import ApprovalContext, ApprovalDecision, DecisionContext
from chainweaver.tools import Tool

ALL = "all"


class Approvals:
    """Agrees to the tools that were named.

    Args:
        named: Names of tools, or "all".
        tools: All the tools there are.

    Raises:
        CommandLineError: One of the names is that of no tool that requires an approval.
    """

    def __init__(self, named: Sequence[str], tools: Mapping[str, Tool]) -> None:
        self._named = frozenset(named)
        asking = sorted(
            name for name, tool in tools.items() if tool.safety is not None and tool.safety.requires_approval
        )
        for name in named:
            if name not in (ALL, *asking):
                near = suggest(name, asking)
                raise CommandLineError(
                    f"--approve '{name}' is no tool that requires an approval",
                    known=asking or None,
                    fix=None if near is None else f"did you mean '{near}'?",
                )

    def approve(self, context: ApprovalContext) -> ApprovalDecision:
        """The answer.

        Raises:
            ApprovalDeniedError: The tool was not named.
        """
        if self._named & {ALL, context.tool_name}:
            return ApprovalDecision(True, approver="command line", reason=context.reason)
        raise ApprovalDeniedError(
            context.tool_name, context.step_index, "it is not approved", fix=f"--approve {context.tool_name}"
        )


class Decisions:
    """Chooses as it was said, step by step.

    Args:
        said: `STEP=TOOL`; the step is named by its id, in a linear flow by its position.
        flows: The flow that is run, and those that it reaches.

    Raises:
        CommandLineError: A pair is none, or names no step that decides, or a tool that is no candidate of it.
    """

    def __init__(self, said: Iterable[str], flows: Sequence[AnyFlow]) -> None:
        self._chosen: dict[str, str] = {}
        deciding = dict(_deciding(flows))
        for pair in said:
            step_id, sign, tool = pair.partition("=")
            if not sign or not step_id or not tool:
                raise CommandLineError(f"--decide '{pair}' is not of the form STEP=TOOL")
            if step_id not in deciding:
                raise CommandLineError(f"--decide '{step_id}' is no step that decides", known=list(deciding) or None)
            if tool not in deciding[step_id]:
                raise CommandLineError(
                    f"--decide '{pair}' names no candidate of step '{step_id}'", known=list(deciding[step_id])
                )
            self._chosen[step_id] = tool

    def decide(self, context: DecisionContext) -> str:
        """The tool.

        Raises:
            DecisionCallbackError: Nothing was said about this step.
        """
        chosen = self._chosen.get(context.step_id)
        if chosen is None:
            fix = f"--decide {context.step_id}={context.candidates[0] if context.candidates else 'TOOL'}"
            detail = f"nobody has chosen among {', '.join(context.candidates)}"
            raise DecisionCallbackError(context.step_id, context.step_index, detail, fix=fix)
        return chosen


def _deciding(flows: Sequence[AnyFlow]) -> Iterable[tuple[str, tuple[str, ...]]]:
    for flow in flows:
        for position, step in enumerate(flow.steps):
            if step.decision_candidates:
                yield getattr(step, "step_id", str(position)), tuple(step.decision_candidates)
