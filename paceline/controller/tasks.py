"""The task ledger. It owns how a task ends: by the runner's report, by the runner's own end, or by
its deadline, whichever comes first. A report after that is logged and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from paceline.controller.actions import (
    Action,
    OrderAgain,
    TaskContradicted,
    TaskEnded,
    TaskMoved,
    TasksCollected,
)
from paceline.controller.book import TaskBook
from paceline.controller.passing import Pass
from paceline.lifecycle import REPORTS, TASK, Moved, TaskEvent, advance
from paceline.types.ids import TaskId
from paceline.types.states import TaskKind, TaskState
from paceline.types.tasks import TaskStatus

BY_PROGRESS = frozenset({TaskKind.FETCH, TaskKind.LOAD})
"""Their deadlines count from the last progress, the others' from the order."""


def task_news(p: Pass) -> Iterator[Action]:
    reports = _reports(p)
    for entry in p.book.tasks.values():
        report = reports.get(entry.id)
        if not entry.state.is_terminal:
            yield from _step(p, entry, report)
        elif report is not None and report.state is not entry.state:
            yield from _contradiction(entry, report)
    yield from _collected(p)


def orders_again(p: Pass) -> Iterator[Action]:
    """Orders that their runner has not acknowledged."""
    reports = _reports(p)
    for entry in p.book.tasks.values():
        if entry.state.is_terminal or entry.id in reports:
            continue
        if p.now - entry.sent_at >= p.timing.resend_s:
            sentence = f"{entry.id} was not acknowledged by {entry.runner}; sent again"
            yield OrderAgain(sentence=sentence, task_id=entry.id)


def _reports(p: Pass) -> dict[TaskId, TaskStatus]:
    return {
        status.task_id: status
        for entry in p.book.runners
        if (seen := p.facts.runners.get(entry))
        for status in seen.facts.tasks
    }


def _step(p: Pass, entry: TaskBook, report: TaskStatus | None) -> Iterator[Action]:
    if report is not None and report.state in REPORTS:
        answer = advance(TASK, entry.state, REPORTS[report.state])
        if isinstance(answer, Moved) and _tells_more(entry, report, answer.state):
            yield _moved(entry, answer.state, report.reason, report.progress)
            return
    if entry.runner not in p.book.runners:
        yield _ended(entry, TaskEvent.FAILED, f"{entry.runner} has ended")
        return
    ends_at = _deadline(p, entry)
    p.wake_at(ends_at)
    if p.now >= ends_at:
        what = "progress" if entry.kind in BY_PROGRESS else "end"
        reason = f"no {what} within {entry.task.deadline_s:.0f} s"
        yield _ended(entry, TaskEvent.TIMED_OUT, reason)


def _deadline(p: Pass, entry: TaskBook) -> float:
    since = entry.moved_at if entry.kind in BY_PROGRESS else entry.ordered_at
    return since + entry.task.deadline_s + p.timing.margin_s


def _tells_more(entry: TaskBook, report: TaskStatus, state: TaskState) -> bool:
    return state is not entry.state or report.progress > entry.progress


def _ended(entry: TaskBook, event: TaskEvent, reason: str) -> Action:
    answer = advance(TASK, entry.state, event)
    assert isinstance(answer, Moved)  # only a terminal state rejects an ending
    return _moved(entry, answer.state, reason, entry.progress)


def _moved(entry: TaskBook, state: TaskState, reason: str, progress: float) -> Action:
    why = f": {reason}" if reason else ""
    kind = TaskEnded if state.is_terminal else TaskMoved
    return kind(
        sentence=f"{entry.kind} on {entry.runner} is {state}{why} ({entry.id})",
        task_id=entry.id,
        state=state,
        reason=reason,
        progress=progress,
    )


def _contradiction(entry: TaskBook, report: TaskStatus) -> Iterator[Action]:
    if report.state.is_terminal and not entry.contradicted:
        sentence = (
            f"{entry.id} on {entry.runner} is reported {report.state} after it ended "
            f"{entry.state}; nothing changes"
        )
        yield TaskContradicted(sentence=sentence, task_id=entry.id)


def _collected(p: Pass) -> Iterator[Action]:
    """Finished tasks go after a while; the newest of each kind stays as long as its runner."""
    old = tuple(
        entry.id
        for entry in p.book.tasks.values()
        if p.now - entry.moved_at >= p.timing.keep_tasks_s
        and entry.state.is_terminal
        and not (entry.runner in p.book.runners and p.latest(entry.runner, entry.kind) is entry)
    )
    if old:
        yield TasksCollected(sentence=f"{len(old)} finished tasks are forgotten", task_ids=old)
