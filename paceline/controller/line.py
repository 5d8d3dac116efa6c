"""Making and keeping the line of an instance whose seats are all filled: connect every rank in a
new epoch, hand the offers round, warm up, and notice when it breaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from paceline.controller.actions import Action, BreakLine, Move, OpenLine, Order, SendLine
from paceline.controller.book import InstanceBook, TaskBook
from paceline.controller.facts import RunnerSeen
from paceline.controller.nodes import IN_A_LINE
from paceline.controller.passing import Pass
from paceline.controller.seats import SeatSeen, Stage
from paceline.controller.spares import kill
from paceline.lifecycle import InstanceEvent
from paceline.types.control import Line
from paceline.types.facts import LinkOffer
from paceline.types.ids import Epoch, Seat
from paceline.types.states import InstanceState, RunnerState, TaskKind, TaskState
from paceline.types.tasks import Connect, WarmUp

ALL_ANEW_AFTER = 3
"""Failures of the line in a row, after which all its runners are launched again."""


def keep_line(p: Pass, inst: InstanceBook, seats: Sequence[SeatSeen]) -> Iterator[Action]:
    """The next thing to do for the line. A line that stands is left alone while its runners are
    merely not heard."""
    if inst.epoch is None:
        if all(_is_willing(p, seat) for seat in seats) and p.is_due(inst):
            yield from _open(p, inst, seats)
        return
    why = _why_broken(p, inst, inst.epoch, seats)
    if why:
        yield from _break(p, inst, seats, why)
        return
    yield from _hand_round_offers(p, inst.epoch, seats)
    yield from _warm_up(p, inst, inst.epoch, seats)
    if inst.state is not InstanceState.READY and _all_in(seats, RunnerState.READY):
        sentence = f"{inst.id} ({inst.wish.model}) is ready: all of epoch {inst.epoch} are"
        yield Move(sentence=sentence, instance=inst.id, event=InstanceEvent.ALL_READY)


def _is_willing(p: Pass, seat: SeatSeen) -> bool:
    if seat.stage is not Stage.FILLED or seat.runner is None:
        return False
    return p.facts.silence_s(seat.runner.heard_at, p.now) < p.timing.suspect_s


def _open(p: Pass, inst: InstanceBook, seats: Sequence[SeatSeen]) -> Iterator[Action]:
    epoch = p.next_epoch()
    nodes = tuple(seat.seat.plan.node for seat in seats)
    yield OpenLine(
        sentence=f"{inst.id} gets epoch {epoch}: all {len(seats)} ranks hold their layers",
        instance=inst.id,
        epoch=epoch,
    )
    for seat in seats:
        task = Connect(
            task_id=p.task_name(TaskKind.CONNECT),
            epoch=epoch,
            deadline_s=p.timing.deadline_s(TaskKind.CONNECT),
            seat=Seat(inst.id, seat.rank),
            world_size=len(seats),
            nodes=nodes,
        )
        yield _order(seat, task, f"{seat} of {inst.id} is asked to connect in epoch {epoch}")


def _why_broken(p: Pass, inst: InstanceBook, epoch: Epoch, seats: Sequence[SeatSeen]) -> str:
    """The reason why the line of this epoch cannot go on, or nothing."""
    for seat in seats:
        if seat.stage is Stage.SILENT:
            if p.is_ready(seat.seat.plan.node):
                return f"{seat} is silent"
        elif seat.stage is not Stage.FILLED or seat.runner is None:
            cause = seat.runner.facts.reason if seat.runner else ""
            return f"{seat} is {seat.stage}" + (f": {cause}" if cause else "")
        elif why := _why_left(p, seat, seat.runner, epoch):
            return f"{seat} {why}"
    return ""


def _why_left(p: Pass, seat: SeatSeen, runner: RunnerSeen, epoch: Epoch) -> str:
    for kind in (TaskKind.CONNECT, TaskKind.WARM_UP):
        task = _of_epoch(p, seat, kind, epoch)
        if task and task.state.is_terminal and task.state is not TaskState.COMPLETE:
            return f"{kind} is {task.state}: {task.reason}"
    facts = runner.facts
    connect = _of_epoch(p, seat, TaskKind.CONNECT, epoch)
    if connect is not None and not connect.state.is_terminal:
        return ""
    if facts.state in IN_A_LINE and facts.offer is not None and facts.offer.epoch == epoch:
        return ""
    broken = facts.line.broken if facts.line else ""
    return f"left the line: {broken or facts.reason or f'it is {facts.state}'}"


def _break(p: Pass, inst: InstanceBook, seats: Sequence[SeatSeen], why: str) -> Iterator[Action]:
    yield BreakLine(
        sentence=f"{inst.id}: the line of epoch {inst.epoch} is broken: {why}",
        instance=inst.id,
        why=why,
    )
    failures = inst.patience.backoff.ends + 1
    if inst.ready_since is None and failures % ALL_ANEW_AFTER == 0:
        for seat in seats:
            if seat.seat.runner in p.book.runners:
                runner = p.book.runners[seat.seat.runner]
                yield from kill(p, runner, f"its line failed {failures} times in a row")


def _hand_round_offers(p: Pass, epoch: Epoch, seats: Sequence[SeatSeen]) -> Iterator[Action]:
    offers = _offers(seats, epoch)
    if len(offers) < len(seats):
        return
    keys = tuple(
        sorted(
            seen.facts.public_key
            for seen in p.facts.gateways.values()
            if p.facts.silence_s(seen.heard_at, p.now) < p.timing.lost_s
        )
    )
    for seat in seats:
        line = Line(epoch=epoch, offers=offers, gateway_keys=keys if seat.rank == 0 else ())
        runner = seat.seat.runner
        assert runner is not None  # a line with an empty seat is broken
        last = p.book.lines_sent.get(runner)
        if last is None or last[0] != line or p.now - last[1] >= p.timing.resend_s:
            sentence = f"{seat} gets the offers of epoch {epoch} and {len(keys)} gateway keys"
            yield SendLine(sentence=sentence, instance=seat.inst.id, runner=runner, line=line)


def _offers(seats: Sequence[SeatSeen], epoch: Epoch) -> tuple[LinkOffer, ...]:
    offers = (seat.runner.facts.offer for seat in seats if seat.runner)
    return tuple(offer for offer in offers if offer is not None and offer.epoch == epoch)


def _warm_up(
    p: Pass, inst: InstanceBook, epoch: Epoch, seats: Sequence[SeatSeen]
) -> Iterator[Action]:
    """Once every rank is connected, all of them: the step has to find each of them willing."""
    if not _all_in(seats, RunnerState.WARMING, RunnerState.READY):
        return
    for seat in seats:
        warming = seat.runner is not None and seat.runner.facts.state is RunnerState.WARMING
        if warming and _of_epoch(p, seat, TaskKind.WARM_UP, epoch) is None:
            task = WarmUp(
                task_id=p.task_name(TaskKind.WARM_UP),
                epoch=epoch,
                deadline_s=p.timing.deadline_s(TaskKind.WARM_UP),
            )
            yield _order(seat, task, f"{seat} of {inst.id} is asked to warm up")


def _all_in(seats: Sequence[SeatSeen], *states: RunnerState) -> bool:
    return all(seat.runner and seat.runner.facts.state in states for seat in seats)


def _of_epoch(p: Pass, seat: SeatSeen, kind: TaskKind, epoch: Epoch) -> TaskBook | None:
    task = p.latest(seat.seat.runner, kind)
    return task if task and task.task.epoch == epoch else None


def _order(seat: SeatSeen, task: Connect | WarmUp, sentence: str) -> Order:
    assert seat.seat.runner is not None
    return Order(sentence=sentence, instance=seat.inst.id, runner=seat.seat.runner, task=task)
