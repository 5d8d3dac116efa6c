"""A runner's tasks and its state: what is taken, kept for a moment, or refused, and how each ends.

The tables of `paceline.lifecycle` decide; this keeps the books. Nothing here raises because of a
task, whatever it holds: an impossible one ends failed, with its reason, and the runner goes on.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from paceline.lifecycle import RUNNER, Accept, Moved, Park, RunnerEvent, advance, verdict
from paceline.types.ids import Epoch, TaskId
from paceline.types.states import TaskKind, TaskState
from paceline.types.tasks import TASK_KINDS, Task, TaskStatus

GRACE_S = 0.25
"""How long a task that came too early is kept."""

MAX_STATUSES = 32
MAX_PARKED = 16

_TIMED = frozenset({TaskKind.CONNECT, TaskKind.WARM_UP, TaskKind.DRAIN})
"""Kinds that end by their own wall-time deadline. Fetch and load are judged by their progress,
which the controller sees; a stop does not wait for anything."""

log = structlog.get_logger("mailbox")


class _Parked(msgspec.Struct, frozen=True):
    task: Task
    until: float
    reason: str


class _InHand(msgspec.Struct, frozen=True):
    task: Task
    until: float | None


class Mailbox:
    """State, epoch and tasks of one runner. `start` is called with each accepted task, and
    `changed` whenever the outside should hear of something. Times are monotonic seconds."""

    def __init__(
        self,
        start: Callable[[Task], None],
        changed: Callable[[], None],
        *,
        now: float,
        grace_s: float = GRACE_S,
    ) -> None:
        self.state = RUNNER.start
        self.since = now
        self.epoch: Epoch | None = None
        self.reason = ""
        self._start = start
        self._changed = changed
        self._grace_s = grace_s
        self._parked: list[_Parked] = []
        self._in_hand: _InHand | None = None
        self._statuses: dict[TaskId, TaskStatus] = {}

    @property
    def statuses(self) -> tuple[TaskStatus, ...]:
        return tuple(self._statuses.values())

    @property
    def in_hand(self) -> Task | None:
        return self._in_hand.task if self._in_hand else None

    # --- tasks in --------------------------------------------------------------------------------

    def deliver(self, task: Task, now: float) -> None:
        """A task arrived. A repeated task_id is the same task: it is answered, not done again."""
        if task.task_id in self._statuses:
            self._changed()
            return
        self._judge(task, now, parked_until=now + self._grace_s)

    def refuse(self, task_id: TaskId, kind: str, reason: str) -> None:
        """A task that could not even be read ends failed."""
        if task_id not in self._statuses:
            self._end(task_id, kind, TaskState.FAILED, reason)

    def _judge(self, task: Task, now: float, *, parked_until: float) -> None:
        kind = TASK_KINDS[type(task)]
        match verdict(self.state, kind, self.epoch, task.epoch):
            case Accept(event):
                self._accept(task, kind, event, now)
            case Park(reason) if now < parked_until and len(self._parked) < MAX_PARKED:
                self._parked.append(_Parked(task, parked_until, reason))
                self._note(task.task_id, kind, TaskState.PARKED, reason)
            case refused:
                self._end(task.task_id, kind, TaskState.FAILED, refused.reason)

    def _accept(self, task: Task, kind: TaskKind, event: RunnerEvent, now: float) -> None:
        if self._in_hand is not None:
            older = self._in_hand.task
            self._in_hand = None
            reason = f"gave way to {kind} {task.task_id} of epoch {task.epoch}"
            self._end(older.task_id, TASK_KINDS[type(older)], TaskState.CANCELLED, reason)
        self.epoch = task.epoch
        self._in_hand = _InHand(task, now + task.deadline_s if kind in _TIMED else None)
        self._note(task.task_id, kind, TaskState.RUNNING)
        self._move(event, now, reason="")
        self._start(task)

    # --- how they end ----------------------------------------------------------------------------

    def is_in_hand(self, task_id: TaskId) -> bool:
        return self._in_hand is not None and self._in_hand.task.task_id == task_id

    def progress(self, task_id: TaskId, share: float) -> None:
        if self.is_in_hand(task_id):
            status = self._statuses[task_id]
            self._statuses[task_id] = msgspec.structs.replace(status, progress=share)
            self._changed()

    def complete(self, task_id: TaskId, event: RunnerEvent | None, now: float) -> None:
        """The task in hand did what it was for; `event` is where that leads."""
        if self.is_in_hand(task_id):
            self._finish(TaskState.COMPLETE, "")
            if event is not None:
                self._move(event, now, reason="")

    def fail(
        self, task_id: TaskId, reason: str, now: float, state: TaskState = TaskState.FAILED
    ) -> None:
        """The task in hand ended without its result; the runner is where the table says."""
        if self.is_in_hand(task_id):
            self._finish(state, reason)
            self._move(RunnerEvent.TASK_FAILED, now, reason=reason)

    def happen(self, event: RunnerEvent, reason: str, now: float) -> None:
        """Something no task asked for, such as a lost line; the task in hand fails with it."""
        if isinstance(advance(RUNNER, self.state, event), Moved):
            self._finish(TaskState.FAILED, reason)
            self._move(event, now, reason=reason)

    def tick(self, now: float) -> Task | None:
        """End what waited too long. Returns the task in hand if its deadline has just passed:
        the caller undoes what it had begun."""
        for parked in [parked for parked in self._parked if now >= parked.until]:
            self._parked.remove(parked)
            self._judge(parked.task, now, parked_until=parked.until)
        hand = self._in_hand
        if hand is None or hand.until is None or now < hand.until:
            return None
        reason = f"not done within {hand.task.deadline_s:g} s"
        self.fail(hand.task.task_id, reason, now, state=TaskState.TIMED_OUT)
        return hand.task

    @property
    def next_deadline(self) -> float | None:
        times = [parked.until for parked in self._parked]
        if self._in_hand and self._in_hand.until is not None:
            times.append(self._in_hand.until)
        return min(times, default=None)

    # --- books -----------------------------------------------------------------------------------

    def _move(self, event: RunnerEvent, now: float, *, reason: str) -> None:
        moved = advance(RUNNER, self.state, event)
        if not isinstance(moved, Moved):
            log.warning("event_rejected", reason=str(moved))
            return
        log.info("state", found=self.state, event_=event, state=moved.state, reason=reason)
        if moved.state is not self.state:
            self.since = now
        self.state, self.reason = moved.state, reason
        self._changed()
        self._retry_parked(now)

    def _retry_parked(self, now: float) -> None:
        """Each transition may make room for what came too early."""
        waiting, self._parked = self._parked, []
        for parked in waiting:
            self._judge(parked.task, now, parked_until=parked.until)

    def _finish(self, state: TaskState, reason: str) -> None:
        if self._in_hand is not None:
            task, self._in_hand = self._in_hand.task, None
            self._end(task.task_id, TASK_KINDS[type(task)], state, reason)

    def _end(self, task_id: TaskId, kind: str, state: TaskState, reason: str) -> None:
        level = log.info if state is TaskState.COMPLETE else log.warning
        level("task_ended", task=task_id, kind=kind, state=state, reason=reason, found=self.state)
        self._note(task_id, kind, state, reason)

    def _note(self, task_id: TaskId, kind: str, state: TaskState, reason: str = "") -> None:
        progress = 1.0 if state is TaskState.COMPLETE else 0.0
        self._statuses.pop(task_id, None)
        self._statuses[task_id] = TaskStatus(
            task_id=task_id, kind=kind, state=state, reason=reason, progress=progress
        )
        while len(self._statuses) > MAX_STATUSES:
            oldest = next(i for i, s in self._statuses.items() if s.state.is_terminal)
            del self._statuses[oldest]
        self._changed()
