"""What a runner does with a task: take it, keep it for a moment, or refuse it. Never raises."""

from __future__ import annotations

import msgspec

from paceline.lifecycle.machine import Moved, advance, listed
from paceline.lifecycle.runner import PROGRESS, RUNNER, STARTS, RunnerEvent
from paceline.types.ids import MAX_EPOCH, Epoch
from paceline.types.states import RunnerState, TaskKind


class Accept(msgspec.Struct, frozen=True):
    """The task begins now, with this event."""

    event: RunnerEvent


class Park(msgspec.Struct, frozen=True):
    """Too early: try again after the next transition, until the grace ends."""

    reason: str


class Refuse(msgspec.Struct, frozen=True):
    """The task ends failed with this reason; nothing else changes."""

    reason: str


Verdict = Accept | Park | Refuse

_IN_A_LINE = frozenset({RunnerState.CONNECTING, RunnerState.WARMING, RunnerState.READY})


def verdict(
    state: RunnerState, kind: str, runner_epoch: Epoch | None, task_epoch: Epoch
) -> Verdict:
    """The verdict on a task of `kind` that knocks in `state`.

    `runner_epoch` is the newest epoch the runner has accepted. The caller has already answered
    repetitions (a task_id it knows), and tries a parked task again after each transition.
    """
    if kind not in STARTS:
        return Refuse(f"unknown kind of task {kind!r}; known are {', '.join(STARTS)}")
    if max(task_epoch.term, task_epoch.n) > MAX_EPOCH:
        return Refuse(f"{kind} of epoch {task_epoch} is beyond any that a controller comes to")
    if runner_epoch is not None and task_epoch < runner_epoch:
        return Refuse(f"{kind} of epoch {task_epoch} is stale: epoch {runner_epoch} is in force")
    event = STARTS[TaskKind(kind)]
    if isinstance(advance(RUNNER, state, event), Moved):
        return _verdict_on_epoch(TaskKind(kind), event, state, runner_epoch, task_epoch)
    accepted = RUNNER.accepted_in(event)
    sentence = f"{kind} found the runner {state}; it is accepted in {listed(accepted)}"
    return Park(sentence) if RUNNER.reached_by(state, PROGRESS) & accepted else Refuse(sentence)


def _verdict_on_epoch(
    kind: TaskKind,
    event: RunnerEvent,
    state: RunnerState,
    runner_epoch: Epoch | None,
    task_epoch: Epoch,
) -> Verdict:
    """A line is joined once per epoch, and warmed up in the epoch that joined it."""
    if kind is TaskKind.CONNECT and state in _IN_A_LINE and task_epoch == runner_epoch:
        return Refuse(f"connect found the runner {state} in epoch {task_epoch} already")
    if kind is TaskKind.WARM_UP and task_epoch != runner_epoch:
        return Park(f"warm_up of epoch {task_epoch} waits: the line is of epoch {runner_epoch}")
    return Accept(event)
