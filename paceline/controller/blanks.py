"""Blank runners: on each node one process without a seat, with torch imported, stands ready, so
that a seat that loses its runner does not wait for an import.

A blank yields: no placement counts its memory as taken, and the next seat that misses a runner on
its node takes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from paceline.controller.actions import Action, KeepBlank, LaunchBlank
from paceline.controller.adoption import is_adoptable, memory_of
from paceline.controller.book import Patience, RunnerBook
from paceline.controller.ledger import Reservation
from paceline.controller.nodes import is_silent
from paceline.controller.passing import Pass
from paceline.controller.spares import await_start, kill
from paceline.planner import human_bytes
from paceline.planner.memory import PROCESS_BYTES
from paceline.types.facts import NodeFacts
from paceline.types.ids import NodeName, RunnerId
from paceline.types.states import InstanceState, RunnerState

FIRST_ANSWERS_S = 5.0
"""For so long after its start an instance has the processors to itself. One that has failed since
needs a blank runner sooner."""


def keep_blanks(p: Pass) -> Iterator[Action]:
    """Asked only when nothing else is to be done: seats come first."""
    for name, seen in p.facts.nodes.items():
        if not p.is_ready(name):
            continue
        there = p.blanks.get(name, [])
        if name in p.drained:
            for runner in there:
                yield from kill(p, runner, f"{name} is to be empty")
            continue
        for runner in there:
            yield from _look_after(p, runner)
        extra = there[seen.facts.blanks :]
        for runner in extra:
            yield from kill(p, runner, f"{name} keeps {seen.facts.blanks} blank runners")
        lacking = seen.facts.blanks - len(there)
        strangers = _strangers(p, seen.facts)
        for runner_id in [r for r in strangers if _is_blank_survivor(p, r)][: max(lacking, 0)]:
            lacking -= 1
            yield _keep(p, seen.facts, runner_id)
        if lacking > 0 and not strangers:
            yield from _launch(p, seen.facts)


def _look_after(p: Pass, runner: RunnerBook) -> Iterator[Action]:
    seen = p.facts.runners.get(runner.id)
    if seen is None:
        yield from await_start(p, runner)
    elif seen.facts.state is not RunnerState.IDLE and seen.facts.since_s >= p.timing.spare_s:
        why = f"it is blank, and has been {seen.facts.state} for {seen.facts.since_s:.0f} s"
        yield from kill(p, runner, why)
    elif is_silent(p.facts, p.book, runner.id, p.now, p.timing):
        yield from kill(p, runner, "it is blank, and says nothing", grace_s=0.0)


def _strangers(p: Pass, node: NodeFacts) -> list[RunnerId]:
    """Processes of the node that this controller neither launched nor adopted."""
    return [r.runner_id for r in node.processes if r.runner_id not in p.book.runners]


def _is_blank_survivor(p: Pass, runner: RunnerId) -> bool:
    seen = p.facts.runners.get(runner)
    if seen is None or seen.facts.seat is not None or seen.facts.state is not RunnerState.IDLE:
        return False
    return is_adoptable(p, seen)


def _keep(p: Pass, node: NodeFacts, runner: RunnerId) -> KeepBlank:
    return KeepBlank(
        sentence=f"{runner} on {node.name} stands ready as a blank runner, as it did before",
        runner=runner,
        node=node.name,
        incarnation=node.incarnation,
        memory_bytes=memory_of(p, node.name, runner) or PROCESS_BYTES,
    )


def _launch(p: Pass, node: NodeFacts) -> Iterator[Action]:
    """On a node that is calm and has the room; after a blank that died, ever later."""
    patience = p.book.blank_patience.get(node.name, Patience())
    p.wake_at(patience.not_before)
    if p.is_settling or patience.not_before > p.now or not _is_calm(p, node.name):
        return
    if node.memory_bytes - p.ledger.reserved(node.name) < PROCESS_BYTES:
        return
    runner = p.runner_name()
    p.ledger.reserve(Reservation(node.name, PROCESS_BYTES, None, runner, blank=True))
    yield LaunchBlank(
        sentence=f"{runner} is launched on {node.name} as a blank runner, "
        f"{human_bytes(PROCESS_BYTES)} reserved",
        runner=runner,
        node=node.name,
        incarnation=node.incarnation,
        memory_bytes=PROCESS_BYTES,
    )


def _is_calm(p: Pass, node: NodeName) -> bool:
    """No instance on the node is on its way, or gives its first answers: the import of a blank
    runner would slow it down."""
    there = [
        inst
        for inst in p.book.instances.values()
        if any(seat.plan.node == node for seat in inst.seats)
    ]
    new = [inst.ready_since for inst in there if inst.is_fresh and inst.ready_since is not None]
    calm_at = max(new, default=-math.inf) + FIRST_ANSWERS_S
    p.wake_at(calm_at)
    return calm_at <= p.now and not any(inst.state in _ON_THEIR_WAY for inst in there)


_ON_THEIR_WAY = frozenset({InstanceState.STARTING, InstanceState.RECOVERING})
