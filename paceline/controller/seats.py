"""The seats of a placed instance as they are found: who sits there, and what is missing."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from paceline.controller.adoption import memory_of
from paceline.controller.book import InstanceBook, SeatBook
from paceline.controller.facts import RunnerSeen
from paceline.controller.nodes import IN_A_LINE, NodeState, is_silent
from paceline.controller.passing import Pass
from paceline.controller.spares import holds
from paceline.planner import human_bytes
from paceline.types.states import InstanceState, RunnerState, TaskKind


class Stage(StrEnum):
    MISSING = "missing"
    """No runner sits there."""
    LEAVING = "leaving"
    """Its runner is being ended."""
    STARTING = "starting"
    """Launched, not heard of yet."""
    SILENT = "silent"
    """Its process is there and says nothing."""
    STUCK = "stuck"
    """Its runner beats, and its work does not go on."""
    DRAINED = "drained"
    """Its runner was told from outside to take no more streams, and has none left."""
    EMPTY = "empty"
    """Its runner waits for this shard."""
    FILLING = "filling"
    """Its runner fetches or loads."""
    FILLED = "filled"
    """Its runner holds this shard, in a line or out of it."""


class SeatSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A seat as it is found in this pass."""

    inst: InstanceBook
    seat: SeatBook
    stage: Stage
    runner: RunnerSeen | None = None

    @property
    def rank(self) -> int:
        return self.seat.plan.rank

    def __str__(self) -> str:
        who = f"{self.seat.runner} on " if self.seat.runner else ""
        return f"rank {self.rank} ({who}{self.seat.plan.node})"


def look(p: Pass, inst: InstanceBook) -> list[SeatSeen]:
    return [
        SeatSeen(inst=inst, seat=seat, stage=_stage(p, inst, seat), runner=_seen(p, seat))
        for seat in inst.seats
    ]


def why_not_here(p: Pass, inst: InstanceBook, seen: list[SeatSeen]) -> list[str]:
    """Sentences about the seats that cannot be filled, or joined, where they are; empty if all
    can."""
    missing = [each for each in seen if each.stage is Stage.MISSING]
    empty = [sentence for each in missing if (sentence := _obstacle(p, inst, each.seat))]
    return empty or _dead_links(p, inst)


RECONNECT_FIRST = 2
"""Failures of a line in a row, from which on a dead link in it is not waited for."""


def _dead_links(p: Pass, inst: InstanceBook) -> list[str]:
    """Ways of the line that do not work, though both their ends are there."""
    if inst.epoch is not None or inst.patience.backoff.ends < RECONNECT_FIRST or not p.bad_edges:
        return []
    nodes = [seat.plan.node for seat in inst.seats]
    ring = dict.fromkeys(
        frozenset(pair) for pair in zip(nodes, [*nodes[1:], nodes[0]], strict=True)
    )
    return [
        f"the link between {' and '.join(sorted(edge))} does not work"
        for edge in ring
        if edge in p.bad_edges
    ]


def why_unfilled(p: Pass, seat: SeatSeen) -> str:
    """For people: what this seat waits for."""
    trouble = _last_trouble(p, seat)
    again_s = seat.seat.patience.not_before - p.now
    pause = f", tried again in {again_s:.0f} s" if again_s > 0 else ""
    state = seat.runner.facts.state if seat.runner else ""
    says = {
        Stage.MISSING: f"waits for a runner{pause}",
        Stage.LEAVING: "waits for its runner to end before another is launched",
        Stage.STARTING: "is starting its process",
        Stage.SILENT: "says nothing, though its process is there",
        Stage.DRAINED: "was drained from outside and is replaced",
        Stage.STUCK: f"beats, but {stuck_words(seat)}",
        Stage.EMPTY: (
            f"waits for {seat.seat.plan.node} to reserve its memory"
            if lacks_memory(p, seat)
            else f"waits for its shard{pause}"
        ),
        Stage.FILLING: f"is {state} ({_how_far(p, seat)})",
        Stage.FILLED: f"holds its layers and is {state}",
    }
    return f"{seat} {says[seat.stage]}{trouble}"


def _how_far(p: Pass, seat: SeatSeen) -> str:
    is_fetching = seat.runner is not None and seat.runner.facts.state is RunnerState.FETCHING
    task = p.latest(seat.seat.runner, TaskKind.FETCH if is_fetching else TaskKind.LOAD)
    return (task.reason if task else "") or f"{100 * (task.progress if task else 0):.0f} %"


def lacks_memory(p: Pass, seat: SeatSeen) -> bool:
    """Whether the node has not yet reserved for its runner what the seat takes."""
    plan, runner = seat.seat.plan, seat.seat.runner
    return runner is not None and (memory_of(p, plan.node, runner) or 0) < plan.memory_bytes


def stuck_words(seat: SeatSeen) -> str:
    work = seat.runner.facts.work if seat.runner else None
    if work is None:
        return ""
    return (
        f"its {work.work} has not moved for {work.silent_s:.1f} s "
        f"(by its measured pace it is given {work.patience_s:.1f} s)"
    )


def _seen(p: Pass, seat: SeatBook) -> RunnerSeen | None:
    return p.facts.runners.get(seat.runner) if seat.runner else None


def _stage(p: Pass, inst: InstanceBook, seat: SeatBook) -> Stage:
    known = p.book.runners.get(seat.runner) if seat.runner else None
    seen = _seen(p, seat)
    if known is None:
        return Stage.MISSING
    if known.kill or (seen and seen.facts.state is RunnerState.STOPPED):
        return Stage.LEAVING
    if seen is None:
        return Stage.STARTING
    if is_silent(p.facts, p.book, known.id, p.now, p.timing):
        return Stage.SILENT
    if seen.facts.is_stuck:
        return Stage.STUCK
    if _is_drained(inst, seen):
        return Stage.DRAINED
    if seen.facts.state in (RunnerState.FETCHING, RunnerState.LOADING):
        return Stage.FILLING
    able = seen.facts.state is RunnerState.LOADED or seen.facts.state in IN_A_LINE
    return Stage.FILLED if able and holds(inst, seat, seen) else Stage.EMPTY


def _is_drained(inst: InstanceBook, seen: RunnerSeen) -> bool:
    facts = seen.facts
    if facts.state is not RunnerState.DRAINING or inst.wish.deleted:
        return False
    return all(task.state.is_terminal for task in facts.tasks if task.kind == TaskKind.DRAIN)


def _obstacle(p: Pass, inst: InstanceBook, seat: SeatBook) -> str:
    """Why the seat can get no runner where it is, however long one waits."""
    plan = seat.plan
    state = p.nodes.get(plan.node, NodeState.LOST)
    # What waits goes on when the node is steady again: one that flaps moves nothing.
    waits_for_it = inst.state is InstanceState.WAITING and state is not NodeState.READY
    if state is NodeState.LOST or waits_for_it:
        return f"rank {plan.rank} needs {plan.node}, which is {state}"
    if plan.node in p.drained:
        return f"rank {plan.rank} needs {plan.node}, which is to be empty"
    free = p.ledger.free_for(inst, plan.node)
    others = sum(s.plan.memory_bytes for s in inst.seats if s.plan.node == plan.node) - (
        plan.memory_bytes
    )
    if plan.memory_bytes + others > free:
        need, room = human_bytes(plan.memory_bytes), human_bytes(max(free - others, 0))
        return f"rank {plan.rank} needs {need} on {plan.node}, which has {room} free"
    return ""


def _last_trouble(p: Pass, seat: SeatSeen) -> str:
    return f"; {seat.seat.trouble}" if seat.seat.trouble and seat.stage is not Stage.FILLED else ""
