"""Tasks that a person hands to a runner. They are checked like any other: what cannot be done ends
failed with its reason, and nothing that is decided rests on them."""

from __future__ import annotations

from typing import Any

import msgspec

from paceline.controller.book import Book, TaskBook
from paceline.controller.facts import Facts
from paceline.controller.record import seat_of
from paceline.types.errors import InvalidRequest, NotFound
from paceline.types.ids import Epoch, RunnerId, Seat, TaskId, fresh_id
from paceline.types.instance import TaskView
from paceline.types.states import TaskKind, TaskState
from paceline.types.tasks import Task
from paceline.types.timing import Timing

MAX_AHEAD = 10**6
"""How far beyond the controller's own an epoch from people may be: runners live by what they have
accepted, and the controller has to rise above it."""

MAX_LIVE = 64
"""Tasks from people that have not ended, of all runners together."""


class TaskBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person says. What is left out is filled in from the runner's seat."""

    runner: str
    kind: str
    epoch: str | tuple[int, int] | None = None
    """`1.5` or [1, 5]; None: the newest that the runner has accepted."""
    task_id: str | None = None
    """A repeated one is the same task."""
    deadline_s: float | None = None
    fields: dict[str, Any] = {}
    """What else a task of this kind holds."""


def hand_over(
    book: Book, facts: Facts, body: TaskBody, now: float, timing: Timing
) -> TaskBook | TaskView:
    """The entry for the ledger; or the task as it ended at once, where it cannot even be read.

    Raises NotFound for a runner that is not there, InvalidRequest when too many are under way.
    """
    runner = RunnerId(body.runner)
    if runner not in book.runners:
        there = ", ".join(book.runners) or "none"
        raise NotFound(f"no runner {body.runner!r}; there are: {there}")
    name = TaskId(body.task_id or fresh_id("task"))
    if name in book.tasks:
        return book.tasks[name]
    live = sum(task.by_hand and not task.state.is_terminal for task in book.tasks.values())
    if live >= MAX_LIVE:
        raise InvalidRequest(f"{live} tasks from outside are under way; wait for one to end")
    try:
        task = _read(book, facts, runner, name, body, timing)
    except (msgspec.ValidationError, ValueError) as error:
        reason = f"cannot be read: {error}"
        return TaskView(
            id=name, runner=runner, kind=body.kind, state=TaskState.FAILED, reason=reason
        )
    return TaskBook(
        task=task, runner=runner, by_hand=True, ordered_at=now, moved_at=now, sent_at=-float("inf")
    )


def task_view(entry: TaskBook) -> TaskView:
    return TaskView(
        id=entry.id,
        runner=entry.runner,
        kind=entry.kind,
        epoch=entry.task.epoch,
        state=entry.state,
        reason=entry.reason,
        progress=entry.progress,
    )


def _read(
    book: Book, facts: Facts, runner: RunnerId, name: TaskId, body: TaskBody, timing: Timing
) -> Task:
    if body.kind not in set(TaskKind):
        raise ValueError(f"unknown kind of task {body.kind!r}; known are {', '.join(TaskKind)}")
    default_s = timing.deadline_s(TaskKind(body.kind))
    given = {
        **_from_seat(book, runner, TaskKind(body.kind)),
        **body.fields,
        "type": body.kind,
        "task_id": name,
        "epoch": _epoch(book, facts, runner, body.epoch),
        "deadline_s": default_s if body.deadline_s is None else body.deadline_s,
    }
    task: Task = msgspec.convert(msgspec.to_builtins(given), Task)
    if task.epoch.term > book.term + MAX_AHEAD or task.epoch.n > book.epochs + MAX_AHEAD:
        raise ValueError(f"epoch {task.epoch} is too far beyond {Epoch(book.term, book.epochs)}")
    try:
        msgspec.msgpack.encode(task)
    except OverflowError as error:
        raise ValueError(f"it holds a number that does not travel: {error}") from error
    return task


def _epoch(
    book: Book, facts: Facts, runner: RunnerId, given: str | tuple[int, int] | None
) -> Epoch:
    if given is None:
        seen = facts.runners.get(runner)
        newest = Epoch(book.term, book.epochs)
        return (seen.facts.epoch if seen else None) or newest
    if isinstance(given, str):
        term, _, n = given.partition(".")
        return Epoch(int(term), int(n))
    return Epoch(*given)


def _from_seat(book: Book, runner: RunnerId, kind: TaskKind) -> dict[str, Any]:
    found = seat_of(book, runner)
    if found is None:
        return {}
    inst, place = found
    plan, seat = place.plan, Seat(inst.id, place.plan.rank)
    by_kind: dict[TaskKind, dict[str, Any]] = {
        TaskKind.FETCH: {"model": inst.wish.model},
        TaskKind.LOAD: {
            "seat": seat,
            "model": inst.wish.model,
            "shard": plan.shard,
            "dtype": inst.dtype,
            "kv_pages": plan.kv_pages,
            "memory_bytes": plan.memory_bytes,
        },
        TaskKind.CONNECT: {
            "seat": seat,
            "world_size": len(inst.seats),
            "nodes": tuple(each.plan.node for each in inst.seats),
        },
    }
    return by_kind.get(kind, {})
