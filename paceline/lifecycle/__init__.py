"""The three lives, as tables: runner, task, instance. Pure: no clock, no I/O."""

from paceline.lifecycle.instance import INSTANCE, InstanceEvent
from paceline.lifecycle.machine import Machine, Moved, Rejected, advance
from paceline.lifecycle.mailbox import Accept, Park, Refuse, Verdict, verdict
from paceline.lifecycle.runner import PROGRESS, RUNNER, STARTS, RunnerEvent
from paceline.lifecycle.task import REPORTS, TASK, TaskEvent

__all__ = [
    "INSTANCE",
    "PROGRESS",
    "REPORTS",
    "RUNNER",
    "STARTS",
    "TASK",
    "Accept",
    "InstanceEvent",
    "Machine",
    "Moved",
    "Park",
    "Refuse",
    "Rejected",
    "RunnerEvent",
    "TaskEvent",
    "Verdict",
    "advance",
    "verdict",
]
