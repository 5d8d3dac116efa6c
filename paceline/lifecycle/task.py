"""The life of a task as the controller's ledger keeps it. A terminal state accepts nothing: the
first writer wins, and a late report changes nothing."""

from __future__ import annotations

from enum import StrEnum

from paceline.lifecycle.machine import Machine
from paceline.types.states import TaskState


class TaskEvent(StrEnum):
    PARKED = "parked"
    STARTED = "started"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


_S = TaskState
_E = TaskEvent

_ENDINGS = {
    _E.COMPLETED: _S.COMPLETE,
    _E.FAILED: _S.FAILED,
    _E.CANCELLED: _S.CANCELLED,
    _E.TIMED_OUT: _S.TIMED_OUT,
}

TASK: Machine[TaskState, TaskEvent] = Machine(
    name="task",
    states=TaskState,
    events=TaskEvent,
    start=TaskState.PENDING,
    table={
        _S.PENDING: {_E.PARKED: _S.PARKED, _E.STARTED: _S.RUNNING, **_ENDINGS},
        _S.PARKED: {_E.PARKED: _S.PARKED, _E.STARTED: _S.RUNNING, **_ENDINGS},
        _S.RUNNING: {_E.STARTED: _S.RUNNING, **_ENDINGS},
        _S.COMPLETE: {},
        _S.FAILED: {},
        _S.CANCELLED: {},
        _S.TIMED_OUT: {},
    },
    meaning={
        _E.PARKED: "the runner keeps it for a moment: it came too early",
        _E.STARTED: "the runner works on it",
        _E.COMPLETED: "the runner reports its result",
        _E.FAILED: "the runner refused it or could not do it, or ended",
        _E.CANCELLED: "the controller no longer wants it",
        _E.TIMED_OUT: "its deadline passed",
    },
)

REPORTS: dict[TaskState, TaskEvent] = {
    TaskState.PARKED: TaskEvent.PARKED,
    TaskState.RUNNING: TaskEvent.STARTED,
    TaskState.COMPLETE: TaskEvent.COMPLETED,
    TaskState.FAILED: TaskEvent.FAILED,
    TaskState.CANCELLED: TaskEvent.CANCELLED,
    TaskState.TIMED_OUT: TaskEvent.TIMED_OUT,
}
"""What a runner's report of a task's state says to the ledger."""
