"""The end of an instance that its user no longer wants: drain, stop, kill, and only then forget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from paceline.controller.actions import Action, Forget, Move, Order
from paceline.controller.book import InstanceBook
from paceline.controller.nodes import NodeState
from paceline.controller.passing import Pass
from paceline.controller.placing import explain
from paceline.controller.seats import SeatSeen, Stage
from paceline.controller.spares import kill
from paceline.lifecycle import InstanceEvent
from paceline.types.ids import RunnerId
from paceline.types.states import InstanceState, RunnerState, TaskKind
from paceline.types.tasks import Drain, Stop


def end(p: Pass, inst: InstanceBook, seats: Sequence[SeatSeen]) -> Iterator[Action]:
    if inst.state is not InstanceState.DRAINING:
        sentence = f"{inst.id} ({inst.wish.model}) is ended: its user asked for it"
        yield Move(sentence=sentence, instance=inst.id, event=InstanceEvent.DELETED)
        return
    if _is_draining(p, seats):
        yield from explain(inst, ("draining: running streams are given time to end",))
        return
    drain = _drain(p, inst, seats)
    if drain is not None:
        yield drain
        return
    for seat in seats:
        yield from _stop(p, seat)
    left = _left(p, inst, seats)
    if left:
        yield from explain(inst, (f"draining: waiting to see {', '.join(left)} gone",))
    elif p.is_due(inst):
        sentence = f"{inst.id} ({inst.wish.model}) is gone, and all its runners with it"
        yield Forget(sentence=sentence, instance=inst.id)


def _drain(p: Pass, inst: InstanceBook, seats: Sequence[SeatSeen]) -> Order | None:
    """Only the driver knows of streams; one drain is tried, once."""
    driver = seats[0] if seats else None
    if driver is None or driver.stage is not Stage.FILLED or driver.runner is None:
        return None
    facts = driver.runner.facts
    busy = facts.load is not None and facts.load.running + facts.load.waiting > 0
    if facts.state is not RunnerState.READY or not busy:
        return None
    if p.latest(facts.runner_id, TaskKind.DRAIN) is not None:
        return None
    task = Drain(
        task_id=p.task_name(TaskKind.DRAIN),
        epoch=p.current_epoch(),
        deadline_s=p.timing.deadline_s(TaskKind.DRAIN),
    )
    sentence = f"{driver} of {inst.id} is asked to let its streams end"
    return Order(sentence=sentence, instance=inst.id, runner=facts.runner_id, task=task)


def _is_draining(p: Pass, seats: Sequence[SeatSeen]) -> bool:
    driver = seats[0].seat.runner if seats else None
    task = p.latest(driver, TaskKind.DRAIN)
    return task is not None and not task.state.is_terminal


def _stop(p: Pass, seat: SeatSeen) -> Iterator[Action]:
    """A stop for who listens, a kill for who does not or did not heed it."""
    runner = p.book.runners.get(seat.seat.runner) if seat.seat.runner else None
    if runner is None or runner.kill:
        return
    stop = p.latest(runner.id, TaskKind.STOP)
    if seat.runner is None or seat.stage is Stage.SILENT:
        yield from kill(p, runner, "its instance is deleted and it does not listen")
    elif stop is None:
        task = Stop(
            task_id=p.task_name(TaskKind.STOP),
            epoch=p.current_epoch(),
            deadline_s=p.timing.deadline_s(TaskKind.STOP),
        )
        sentence = f"{seat} of {seat.inst.id} is asked to stop"
        yield Order(sentence=sentence, instance=seat.inst.id, runner=runner.id, task=task)
    elif p.now - stop.ordered_at >= stop.task.deadline_s:
        yield from kill(p, runner, f"it was asked to stop {stop.task.deadline_s:.0f} s ago")


def _left(p: Pass, inst: InstanceBook, seats: Sequence[SeatSeen]) -> list[str]:
    """Who may still live: its runners by the book, and those from before a restart."""
    known = {
        runner.id
        for runner in p.book.runners.values()
        if runner.seat is not None and runner.seat.instance == inst.id
    }
    known |= {seat.seat.runner for seat in seats if seat.seat.runner}
    for name, seen in p.facts.nodes.items():
        if p.nodes[name] is NodeState.LOST:
            continue
        for process in seen.facts.processes:
            if _may_be_of(p, inst, process.runner_id):
                known.add(process.runner_id)
    if inst.inherited and p.is_settling:
        return sorted(known) or ["runners from before the restart"]
    return sorted(known)


def _may_be_of(p: Pass, inst: InstanceBook, runner: RunnerId) -> bool:
    """By its own word; a process that nobody knows and that names no seat could be anyone's."""
    seen = p.facts.runners.get(runner)
    if seen is not None and seen.facts.seat is not None:
        return seen.facts.seat.instance == inst.id
    known = p.book.runners.get(runner)
    return known is None or (known.seat is None and not known.is_blank)
