"""What is known of a runner's tasks: the newest are reported, many more remembered, all counted.

All of it is bounded, whatever the tasks hold: a beat that grew with their words would not arrive.
"""

from __future__ import annotations

from collections import Counter

from paceline.types.ids import TaskId
from paceline.types.states import TaskKind, TaskState
from paceline.types.tasks import TaskStatus

MAX_REPORTED = 32
MAX_REMEMBERED = 4096
"""Ended tasks that a late repetition is still known by."""

MAX_KIND = 64
MAX_REASON = 500
"""Characters."""

UNKNOWN = "unknown"
"""The name under which every kind that is none is counted."""

_KINDS = frozenset(TaskKind)


class Register:
    """Statuses by task id. A task that has not ended is never forgotten; the mailbox holds fewer
    of those than are reported."""

    def __init__(self) -> None:
        self._reported: dict[TaskId, TaskStatus] = {}
        self._remembered: dict[TaskId, TaskStatus] = {}
        self._counts: Counter[str] = Counter()

    @property
    def statuses(self) -> tuple[TaskStatus, ...]:
        """The newest ones, and those asked for again; newest last."""
        return tuple(self._reported.values())

    @property
    def counts(self) -> dict[str, int]:
        """How many tasks of a kind ended how, by `kind/state`; `unknown` is a kind too."""
        return dict(self._counts)

    def recall(self, task_id: TaskId) -> TaskStatus | None:
        """What is known of a task that is asked for again; it is reported again too."""
        status = self._reported.get(task_id) or self._remembered.get(task_id)
        if status is not None:
            self._report(status)
        return status

    def note(
        self,
        task_id: TaskId,
        kind: str,
        state: TaskState,
        reason: str = "",
        progress: float = 0.0,
    ) -> None:
        """The task is in this state now; an end is noted once."""
        status = TaskStatus(
            task_id=task_id,
            kind=kind[:MAX_KIND],
            state=state,
            reason=shortened(reason),
            progress=progress,
        )
        self._report(status)
        if state.is_terminal:
            self._remember(status)

    def _report(self, status: TaskStatus) -> None:
        self._reported.pop(status.task_id, None)
        self._reported[status.task_id] = status
        while len(self._reported) > MAX_REPORTED:
            ended = (i for i, known in self._reported.items() if known.state.is_terminal)
            del self._reported[next(ended)]

    def _remember(self, status: TaskStatus) -> None:
        self._remembered[status.task_id] = status
        if len(self._remembered) > MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        kind = status.kind if status.kind in _KINDS else UNKNOWN
        self._counts[f"{kind}/{status.state}"] += 1


def shortened(reason: str) -> str:
    """At most MAX_REASON characters of it."""
    return reason if len(reason) <= MAX_REASON else f"{reason[: MAX_REASON - 1]}…"
