"""Runners that sit on no seat: given to a seat that they fit, else ended."""

from __future__ import annotations

from collections.abc import Iterator

from paceline.controller.actions import Action, KillRunner, TellAgain
from paceline.controller.adoption import is_adoptable
from paceline.controller.book import InstanceBook, RunnerBook, SeatBook
from paceline.controller.facts import NodeSeen, RunnerSeen
from paceline.controller.nodes import IN_A_LINE, NodeState
from paceline.controller.passing import Pass
from paceline.types.control import Kill, Launch
from paceline.types.facts import NodeFacts, ProcessFacts
from paceline.types.ids import NodeName, RunnerId, Seat
from paceline.types.states import InstanceState, RunnerState

TAKES_A_LOAD = frozenset({RunnerState.IDLE, RunnerState.LOADED, RunnerState.FAILED})


def spare_for(p: Pass, inst: InstanceBook, seat: SeatBook) -> RunnerId | None:
    """The living runner on the seat's node that has the least left to do to fill it; else a blank
    one that is still starting."""
    fitting = [
        seen
        for seen in p.facts.runners.values()
        if seen.facts.node == seat.plan.node
        and seen.facts.runner_id not in p.taken
        and _is_free(p, inst, seen)
        and (holds(inst, seat, seen) or seen.facts.state in TAKES_A_LOAD)
    ]
    best = max(fitting, key=lambda seen: _fitness(inst, seat, seen), default=None)
    if best is not None:
        return best.facts.runner_id
    starting = (r.id for r in p.blanks.get(seat.plan.node, ()) if r.id not in p.facts.runners)
    return next((runner for runner in starting if runner not in p.taken), None)


def holds(inst: InstanceBook, seat: SeatBook, seen: RunnerSeen) -> bool:
    """Whether a runner has exactly this seat's weights, whatever it is doing with them."""
    facts, plan = seen.facts, seat.plan
    return (
        facts.seat == Seat(inst.id, plan.rank)
        and facts.model == inst.wish.model
        and facts.shard == plan.shard
        and facts.dtype == inst.dtype
        and facts.kv_pages == plan.kv_pages
    )


def _fitness(inst: InstanceBook, seat: SeatBook, seen: RunnerSeen) -> tuple[bool, bool, str]:
    return (
        holds(inst, seat, seen),
        seen.facts.state is not RunnerState.FAILED,
        seen.facts.runner_id,
    )


def _is_free(p: Pass, inst: InstanceBook, seen: RunnerSeen) -> bool:
    if seen.facts.is_stuck:
        return False
    known = p.book.runners.get(seen.facts.runner_id)
    if known is not None:
        mine = known.seat is None or known.seat.instance == inst.id
        alive = p.facts.silence_s(seen.heard_at, p.now) < p.timing.suspect_s
        return mine and alive and not known.kill and known.id not in p.seated
    seat = seen.facts.seat
    return (seat is None or seat.instance == inst.id) and is_adoptable(p, seen)


def await_start(p: Pass, runner: RunnerBook) -> Iterator[Action]:
    """For a runner that was launched and not heard of yet."""
    p.wake_at(runner.ordered_at + p.timing.start_s)
    if p.now - runner.ordered_at >= p.timing.start_s:
        yield from kill(p, runner, f"not a word from it within {p.timing.start_s:.0f} s")
    elif not runner.in_inventory and p.now - runner.sent_at >= p.timing.resend_s:
        yield TellAgain(
            sentence=f"{runner.node} does not list {runner.id} yet; told again",
            runner=runner.id,
            order=Launch(
                runner_id=runner.id,
                incarnation=runner.incarnation,
                memory_bytes=runner.memory_bytes,
                term=p.book.term,
            ),
        )


def kill(p: Pass, runner: RunnerBook, why: str, grace_s: float | None = None) -> Iterator[Action]:
    """Orders the end of a runner, once; until it is seen gone, the order is repeated."""
    if runner.kill:
        return
    yield KillRunner(
        sentence=f"{runner.id} on {runner.node} is ended: {why}",
        runner=runner.id,
        node=runner.node,
        incarnation=runner.incarnation,
        memory_bytes=runner.memory_bytes,
        grace_s=p.timing.kill_grace_s if grace_s is None else grace_s,
        why=why,
    )


def kills_again(p: Pass) -> Iterator[Action]:
    for runner in p.book.runners.values():
        if runner.kill and p.now - runner.told_at >= p.timing.resend_s:
            yield TellAgain(
                sentence=f"{runner.id} has not ended yet; told again",
                runner=runner.id,
                order=Kill(
                    runner_id=runner.id,
                    grace_s=p.timing.kill_grace_s,
                    reason=runner.kill,
                    term=p.book.term,
                ),
            )


def unneeded(p: Pass) -> Iterator[Action]:
    """Ends what sits on no seat. Asked only when nothing else is to be done, so that every seat
    has had its choice."""
    kept = p.seated
    for runner in p.book.runners.values():
        if runner.is_blank or runner.id in kept or _still_serves(p, runner):
            continue
        if _is_stuck(p, runner.id) or not _owner_is_open(p, runner.seat):
            yield from kill(p, runner, *_why_ended(p, runner.id))
    for name, node in p.facts.nodes.items():
        if p.nodes[name] is NodeState.LOST:
            continue
        for process in node.facts.processes:
            if process.runner_id not in p.book.runners and _is_stray(p, node, process.runner_id):
                stray = _as_book(p, node.facts, process)
                yield from kill(p, stray, *_why_ended(p, process.runner_id))


def make_room(p: Pass, inst: InstanceBook, node: NodeName) -> Iterator[Action]:
    """Ends runners of the instance that sit on no seat and hold memory that one of them needs."""
    kept = p.seated | p.taken
    for runner in p.book.runners.values():
        mine = runner.seat is not None and runner.seat.instance == inst.id
        if mine and runner.node == node and runner.id not in kept:
            yield from kill(p, runner, f"{inst.id} needs its memory on {node}")
    seen = p.facts.nodes[node].facts
    for process in seen.processes:
        runner_seen = p.facts.runners.get(process.runner_id)
        seat = runner_seen.facts.seat if runner_seen else None
        if process.runner_id not in p.book.runners and seat and seat.instance == inst.id:
            yield from kill(p, _as_book(p, seen, process), f"{inst.id} needs its memory on {node}")


def _still_serves(p: Pass, runner: RunnerBook) -> bool:
    """Whether it is in the line that its instance has given up, and carries the streams until
    the next one is ready."""
    inst = p.book.instances.get(runner.seat.instance) if runner.seat else None
    seen = p.facts.runners.get(runner.id)
    if inst is None or seen is None or inst.retired is None or inst.wish.deleted:
        return False
    offer = seen.facts.offer
    return (
        inst.state is InstanceState.RECOVERING
        and offer is not None
        and offer.epoch == inst.retired
        and p.facts.silence_s(seen.heard_at, p.now) < p.timing.suspect_s
        and seen.facts.state in IN_A_LINE
    )


def _is_stray(p: Pass, node: NodeSeen, runner: RunnerId) -> bool:
    """An unknown process: one of an earlier term, or one whose launch was given up."""
    if p.is_settling:
        return False
    seen = p.facts.runners.get(runner)
    if _is_stuck(p, runner):
        return True
    if seen is None:
        since = p.facts.started_at
    elif seen.facts.seat is None:
        since = seen.first_at
    elif _owner_is_open(p, seen.facts.seat):
        # Kept as long as it speaks; while its node was away it could not.
        since = max(seen.heard_at, p.facts.awake_since, node.steady_since)
    else:
        return True
    p.wake_at(since + p.timing.spare_s)
    return p.now - since >= p.timing.spare_s


def _why_ended(p: Pass, runner: RunnerId) -> tuple[str, float]:
    """And for how long it may obey by itself."""
    if _is_stuck(p, runner):
        return "it is stuck, and sits on no seat", 0.0
    return "no seat needs it", p.timing.kill_grace_s


def _is_stuck(p: Pass, runner: RunnerId) -> bool:
    seen = p.facts.runners.get(runner)
    return seen is not None and seen.facts.is_stuck


def _owner_is_open(p: Pass, seat: Seat | None) -> bool:
    """Whether the instance of a seat may still want a runner that it has not given a seat."""
    inst = p.book.instances.get(seat.instance) if seat else None
    if inst is None or inst.wish.deleted:
        return False
    return not inst.seats or any(place.runner is None for place in inst.seats)


def _as_book(p: Pass, node: NodeFacts, process: ProcessFacts) -> RunnerBook:
    return RunnerBook(
        id=process.runner_id,
        node=node.name,
        incarnation=node.incarnation,
        memory_bytes=process.memory_bytes,
        seat=None,
        ordered_at=p.now,
        sent_at=p.now,
        in_inventory=True,
    )
