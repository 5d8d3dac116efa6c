"""A runner's tasks and its state: what is taken, kept for a moment, or refused, and how each ends.

The tables of `paceline.lifecycle` decide; this keeps the books. Nothing here raises because of a
task, whatever it holds: an impossible one ends failed, with its reason, and the runner goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from paceline.lifecycle import RUNNER, Accept, Moved, Park, RunnerEvent, advance, verdict
from paceline.runner.register import MAX_KIND, UNKNOWN, Register, shortened
from paceline.types.ids import Epoch, Seat, TaskId
from paceline.types.states import TaskKind, TaskState
from paceline.types.tasks import TASK_KINDS, Connect, Load, Task, TaskStatus
from paceline.types.timing import DEFAULT_TIMING

GRACE_S = DEFAULT_TIMING.task_grace_s
"""How long a task that came too early is kept."""

MAX_PARKED = 16
MAX_NAME = 256
"""Characters of a task's or instance's name: it travels in every beat."""
LONGEST_S = 3600.0
"""No task that ends by its deadline is given longer."""

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


class _Named(msgspec.Struct, frozen=True):
    task_id: TaskId
    type: Any = None


class _Unreadable(msgspec.Struct, frozen=True):
    """What has to be there of an order for its task to be answered."""

    task: _Named


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
        self._seat: Seat | None = None
        self._register = Register()

    @property
    def statuses(self) -> tuple[TaskStatus, ...]:
        """The newest tasks, and those that were asked for again."""
        return self._register.statuses

    @property
    def counts(self) -> dict[str, int]:
        """How many tasks ended how, by `kind/state`."""
        return self._register.counts

    @property
    def in_hand(self) -> Task | None:
        return self._in_hand.task if self._in_hand else None

    # --- tasks in --------------------------------------------------------------------------------

    def deliver(self, task: Task, now: float) -> None:
        """A task arrived. A repeated task_id is the same task: it is answered, not done again."""
        kind = TASK_KINDS[type(task)]
        if self._is_new(task.task_id, kind):
            if isinstance(task, Load | Connect) and len(task.seat.instance) > MAX_NAME:
                reason = f"its instance's name is longer than {MAX_NAME} characters"
                self._end(task.task_id, kind, TaskState.FAILED, reason)
            else:
                self._judge(task, now, parked_until=now + self._grace_s)

    def unreadable(self, fields: dict[str, Any] | None, reason: str) -> None:
        """An order that is none of the known ones; if it says which task it is, that fails."""
        try:
            named = msgspec.convert(fields, _Unreadable).task
        except msgspec.ValidationError:
            log.warning("order_unreadable", reason=shortened(reason))
            return
        kind = named.type[:MAX_KIND] if isinstance(named.type, str) else UNKNOWN
        if self._is_new(named.task_id, kind):
            self._end(named.task_id, kind, TaskState.FAILED, f"cannot be read: {reason}")

    def _is_new(self, task_id: TaskId, kind: str) -> bool:
        """Whether the task is to be judged: an old one is answered, one that cannot be is not."""
        if len(task_id) > MAX_NAME:
            reason = f"its task_id is longer than {MAX_NAME} characters"
            log.warning("order_unreadable", reason=reason, kind=kind)
            return False
        if self._register.recall(task_id) is None:
            return True
        self._changed()
        return False

    def _judge(self, task: Task, now: float, *, parked_until: float) -> None:
        kind = TASK_KINDS[type(task)]
        match verdict(self.state, kind, self.epoch, task.epoch):
            case Accept(event):
                self._accept(task, kind, event, now)
            case Park(reason) if now < parked_until and len(self._parked) < MAX_PARKED:
                self._parked.append(_Parked(task, parked_until, reason))
                self._note(task.task_id, kind, TaskState.PARKED, reason)
            case Park(reason) if now < parked_until:
                reason = f"{reason}, and {MAX_PARKED} tasks wait already"
                self._end(task.task_id, kind, TaskState.FAILED, reason)
            case refused:
                self._end(task.task_id, kind, TaskState.FAILED, refused.reason)

    def _accept(self, task: Task, kind: TaskKind, event: RunnerEvent, now: float) -> None:
        if self._in_hand is not None:
            older = self._in_hand.task
            self._in_hand = None
            reason = f"gave way to {kind} {task.task_id} of epoch {task.epoch}"
            self._end(older.task_id, TASK_KINDS[type(older)], TaskState.CANCELLED, reason)
        self.epoch = task.epoch
        if isinstance(task, Load):
            self._seat = task.seat
        # In this order: a deadline that is no number is the longest.
        within_s = task.deadline_s if task.deadline_s < LONGEST_S else LONGEST_S
        self._in_hand = _InHand(task, now + within_s if kind in _TIMED else None)
        self._note(task.task_id, kind, TaskState.RUNNING)
        self._move(event, now, reason="")
        if self.is_in_hand(task.task_id):
            self._start(task)

    # --- how they end ----------------------------------------------------------------------------

    def is_in_hand(self, task_id: TaskId) -> bool:
        return self._in_hand is not None and self._in_hand.task.task_id == task_id

    def progress(self, task_id: TaskId, share: float, words: str = "") -> None:
        hand = self._in_hand
        if hand is not None and hand.task.task_id == task_id:
            kind = TASK_KINDS[type(hand.task)]
            self._register.note(task_id, kind, TaskState.RUNNING, words, progress=share)
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
        due = [parked for parked in self._parked if now >= parked.until]
        self._parked = [parked for parked in self._parked if now < parked.until]
        for parked in due:
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

    @property
    def _about(self) -> dict[str, Any]:
        """Whom a line of the log concerns."""
        seat, epoch = self._seat, self.epoch
        seated = {"instance": seat.instance, "rank": seat.rank} if seat else {}
        return seated | ({"epoch": str(epoch)} if epoch else {})

    # --- books -----------------------------------------------------------------------------------

    def _move(self, event: RunnerEvent, now: float, *, reason: str) -> None:
        moved = advance(RUNNER, self.state, event)
        if not isinstance(moved, Moved):
            log.warning("event_rejected", reason=str(moved))
            return
        reason = shortened(reason)
        log.info(
            "state",
            found=self.state,
            event_=event,
            state=moved.state,
            reason=reason,
            **self._about,
        )
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
        level(
            "task_ended",
            task=task_id,
            kind=kind,
            state=state,
            reason=shortened(reason),
            found=self.state,
            **self._about,
        )
        self._note(task_id, kind, state, reason)

    def _note(self, task_id: TaskId, kind: str, state: TaskState, reason: str = "") -> None:
        progress = 1.0 if state is TaskState.COMPLETE else 0.0
        self._register.note(task_id, kind, state, reason, progress)
        self._changed()
