"""What the book keeps of each action: the part of acting that sends nothing to anyone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from paceline.controller import actions as do
from paceline.controller.book import Book, InstanceBook, Patience, RunnerBook, SeatBook
from paceline.lifecycle import INSTANCE, InstanceEvent, Moved, advance
from paceline.types.ids import RunnerId, Seat
from paceline.types.states import InstanceState, TaskKind, TaskState

SEAT_TASKS = frozenset({TaskKind.FETCH, TaskKind.LOAD})
"""Their failure is the seat's; that of others is the line's."""


def _node_moved(book: Book, action: do.NodeMoved, now: float) -> None:
    book.nodes[action.node] = action.state


def _draining(book: Book, action: do.Draining, now: float) -> None:
    book.draining = action.nodes


def _runner_shown(book: Book, action: do.RunnerShown, now: float) -> None:
    runner = book.runners[action.runner]
    book.runners[action.runner] = replace(runner, in_inventory=True)


def _runner_gone(book: Book, action: do.RunnerGone, now: float) -> None:
    ended = book.runners.pop(action.runner)
    book.lines_sent.pop(action.runner, None)
    found = seat_of(book, action.runner)
    if found is None:
        if ended.is_blank:
            before = book.blank_patience.get(ended.node, Patience())
            book.blank_patience[ended.node] = before.again(now, now - ended.ordered_at)
        return
    inst, seat = found
    patience = seat.patience.again(now, inst.healthy_s(now))
    emptied = replace(seat, runner=None, patience=patience, trouble=action.sentence)
    put_seat(book, inst, emptied, InstanceEvent.SEAT_LOST, epoch=None, ready_since=None)


def _keep_blank(book: Book, action: do.KeepBlank, now: float) -> None:
    enter_runner(book, action, now, seat=None, in_inventory=True)


def _task_moved(book: Book, action: do.TaskMoved, now: float) -> None:
    entry = book.tasks[action.task_id]
    book.tasks[action.task_id] = replace(
        entry,
        state=action.state,
        reason=action.reason,
        progress=action.progress,
        moved_at=now,
    )
    if action.state.is_terminal:
        book.task_counts[f"{entry.kind}/{action.state}"] += 1
    failed = action.state in (TaskState.FAILED, TaskState.TIMED_OUT)
    found = seat_of(book, entry.runner)
    if failed and entry.kind in SEAT_TASKS and found is not None and not entry.by_hand:
        inst, seat = found
        patience = seat.patience.again(now, inst.healthy_s(now))
        trouble = f"{entry.kind} {action.state}: {action.reason}"
        put_seat(book, inst, replace(seat, patience=patience, trouble=trouble))


def _task_contradicted(book: Book, action: do.TaskContradicted, now: float) -> None:
    entry = book.tasks[action.task_id]
    book.tasks[action.task_id] = replace(entry, contradicted=True)


def _tasks_collected(book: Book, action: do.TasksCollected, now: float) -> None:
    for task_id in action.task_ids:
        book.tasks.pop(task_id, None)


def _place(book: Book, action: do.Place, now: float) -> None:
    inst = book.instances[action.instance]
    if inst.seats:
        events: tuple[InstanceEvent, ...] = (InstanceEvent.REPLACED,)
    else:
        events = (InstanceEvent.PLAN_STARTED, InstanceEvent.PLACED)
    # Who stays where it is stays as patient: another placement is no way around a pause.
    patience = {(seat.plan.rank, seat.plan.node): seat.patience for seat in inst.seats}
    pairs = zip(action.placement.seats, action.runners, strict=True)
    placed = replace(
        inst,
        seats=tuple(
            SeatBook(
                plan=plan,
                runner=runner,
                patience=patience.get((plan.rank, plan.node), Patience()),
            )
            for plan, runner in pairs
        ),
        dtype=action.placement.dtype,
        placed_because=action.placement.reasons,
        forecast=action.placement.forecast,
        epoch=None,
        retired=(inst.epoch if action.moves else None) or inst.retired,
        ready_since=None,
        asked=None,
        planned_at=now,
        stumble="",
        stays=(),
        reasons=(),
    )
    # What it has outlived is of the failures that still count.
    placed = replace(placed, outlived=min(placed.outlived, placed.failures))
    put(book, placed, *events)


def _adopt(book: Book, action: do.Adopt, now: float) -> None:
    inst = book.instances[action.instance]
    seats = []
    for plan, runner in zip(action.placement.seats, action.runners, strict=True):
        seats.append(SeatBook(plan=plan, runner=runner))
        book.runners[runner] = RunnerBook(
            id=runner,
            node=plan.node,
            incarnation=action.incarnations[plan.rank],
            memory_bytes=plan.memory_bytes,
            seat=Seat(inst.id, plan.rank),
            ordered_at=now,
            sent_at=now,
            in_inventory=True,
        )
    adopted = replace(
        inst,
        seats=tuple(seats),
        dtype=action.placement.dtype,
        placed_because=action.placement.reasons,
        epoch=action.epoch,
        asked=None,
    )
    put(book, adopted, InstanceEvent.ADOPTED)


def _wait(book: Book, action: do.Wait, now: float) -> None:
    inst = book.instances[action.instance]
    waiting = replace(inst, reasons=action.reasons, asked=action.asked, planned_at=now, stumble="")
    put(book, waiting, InstanceEvent.UNPLACED)


def _stay(book: Book, action: do.Stay, now: float) -> None:
    inst = book.instances[action.instance]
    put(book, replace(inst, stays=action.reasons, asked=action.asked, planned_at=now, stumble=""))


def _ask_again(book: Book, action: do.AskAgain, now: float) -> None:
    inst = book.instances[action.instance]
    put(book, replace(inst, asked=action.asked, planned_at=now, stumble=""))


def _move(book: Book, action: do.Move, now: float) -> None:
    inst = book.instances[action.instance]
    if action.event is InstanceEvent.ALL_READY:
        inst = replace(inst, ready_since=now, served=True, outlived=inst.failures)
    elif action.event is InstanceEvent.RESUMED:
        inst = replace(inst, asked=None)
    put(book, inst, action.event)


def _open_line(book: Book, action: do.OpenLine, now: float) -> None:
    book.epochs = max(book.epochs, action.epoch.n)
    inst = book.instances[action.instance]
    put(book, replace(inst, epoch=action.epoch, ready_since=None))


def _break_line(book: Book, action: do.BreakLine, now: float) -> None:
    inst = book.instances[action.instance]
    patience = inst.patience.again(now, inst.healthy_s(now))
    broken = replace(inst, epoch=None, ready_since=None, patience=patience, trouble=action.why)
    put(book, broken, InstanceEvent.SEAT_LOST)


def _heal(book: Book, action: do.Heal, now: float) -> None:
    inst = book.instances[action.instance]
    seats = tuple(replace(seat, patience=Patience(), trouble="") for seat in inst.seats)
    put(book, replace(inst, seats=seats, patience=Patience(), trouble="", outlived=0))


def _explain(book: Book, action: do.Explain, now: float) -> None:
    # What the planner said is no longer what people are told: it is asked again.
    put(book, replace(book.instances[action.instance], reasons=action.reasons, asked=None))


def _stumble(book: Book, action: do.Stumble, now: float) -> None:
    put(book, replace(book.instances[action.instance], stumble=action.sentence))


def enter_runner(
    book: Book, action: do.OfRunner, now: float, *, seat: Seat | None, in_inventory: bool
) -> None:
    """Keeps a runner that is launched, or that gets this seat."""
    known = book.runners.get(action.runner)
    book.runners[action.runner] = RunnerBook(
        id=action.runner,
        node=action.node,
        incarnation=action.incarnation,
        memory_bytes=action.memory_bytes,
        seat=seat,
        ordered_at=known.ordered_at if known else now,
        sent_at=now,
        in_inventory=in_inventory,
    )


def seat_of(book: Book, runner: RunnerId) -> tuple[InstanceBook, SeatBook] | None:
    for inst in book.instances.values():
        for seat in inst.seats:
            if seat.runner == runner:
                return inst, seat
    return None


def put_seat(
    book: Book, inst: InstanceBook, seat: SeatBook, *events: InstanceEvent, **changes: Any
) -> None:
    rank = seat.plan.rank
    seats = (*inst.seats[:rank], seat, *inst.seats[rank + 1 :])
    put(book, replace(inst, seats=seats, **changes), *events)


def put(book: Book, inst: InstanceBook, *events: InstanceEvent) -> None:
    """Keeps the instance as it is now, moved by events; what its table rejects moves nothing
    (a seat may be lost while the instance waits)."""
    state: InstanceState = inst.state
    for event in events:
        answer = advance(INSTANCE, state, event)
        state = answer.state if isinstance(answer, Moved) else state
    book.instances[inst.id] = replace(inst, state=state)


RECORDS: dict[type[do.Action], Callable[[Book, Any, float], None]] = {
    do.NodeMoved: _node_moved,
    do.Draining: _draining,
    do.RunnerShown: _runner_shown,
    do.RunnerGone: _runner_gone,
    do.KeepBlank: _keep_blank,
    do.TaskMoved: _task_moved,
    do.TaskEnded: _task_moved,
    do.TaskContradicted: _task_contradicted,
    do.TasksCollected: _tasks_collected,
    do.Place: _place,
    do.Adopt: _adopt,
    do.Wait: _wait,
    do.Stay: _stay,
    do.AskAgain: _ask_again,
    do.Move: _move,
    do.OpenLine: _open_line,
    do.BreakLine: _break_line,
    do.Heal: _heal,
    do.Explain: _explain,
    do.Stumble: _stumble,
}
