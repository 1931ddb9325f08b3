"""The run core: what happens next in a run, decided here once for every lane.

A `Run` is told what happened and answers with commands. Nothing in this room calls a tool, waits, reads a clock, opens
a file, logs or draws a random number; lanes perform the commands and stamp the times. Called by the lanes and by the
executor, from one thread at a time per run.
"""

from chainweaver._execution.commands import (
    Command,
    Invoke,
    Lead,
    Lookup,
    PlainCall,
    RunCancelled,
    Save,
    Settle,
    Sleep,
    Tell,
    TimedOut,
)
from chainweaver._execution.conclude import conclude, take_input
from chainweaver._execution.merge import Collision, StepOutput, merge_step_outputs
from chainweaver._execution.run import Detail, Run
from chainweaver._execution.schedule import Schedule, StepRun
from chainweaver._execution.trace import capture_within, reference_only, summarize
from chainweaver._execution.walk import walk

__all__ = [
    "Collision",
    "Command",
    "Detail",
    "Invoke",
    "Lead",
    "Lookup",
    "PlainCall",
    "Run",
    "RunCancelled",
    "Save",
    "Schedule",
    "Settle",
    "Sleep",
    "StepOutput",
    "StepRun",
    "Tell",
    "TimedOut",
    "capture_within",
    "conclude",
    "merge_step_outputs",
    "reference_only",
    "summarize",
    "take_input",
    "walk",
]
