"""Who is there: ready, suspect, unreachable or lost.

Lost needs silence and a witness: a neighbour in the line, or for a driver a gateway, whose data
link fell silent too. One that still hears it vouches, and nothing moves. Where no line stands
silence alone decides; where one does and nobody can be a witness, after a longer patience, unless
anybody's word says that the line stands, or nobody at all is heard.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from enum import StrEnum

from paceline.controller.book import Book, InstanceBook, RunnerBook
from paceline.controller.facts import Facts, NodeSeen, RunnerSeen
from paceline.types.ids import NodeName, RunnerId
from paceline.types.states import RunnerState
from paceline.types.timing import Timing

_JUST_AFTER_S = 0.001
"""Sums of floats may fall short of what they are compared with."""

_SERVING = frozenset({RunnerState.READY, RunnerState.DRAINING})

IN_A_LINE = frozenset(
    {RunnerState.CONNECTING, RunnerState.WARMING, RunnerState.READY, RunnerState.DRAINING}
)


class NodeState(StrEnum):
    READY = "ready"
    SUSPECT = "suspect"
    UNREACHABLE = "unreachable"
    LOST = "lost"


def drained(facts: Facts, book: Book) -> Set[NodeName]:
    """Nodes that are to be empty: people said so, or the node that it is about to end."""
    leaving = {name for name, seen in facts.nodes.items() if seen.facts.leaving}
    return leaving | book.drained


def node_state(facts: Facts, book: Book, name: NodeName, now: float, timing: Timing) -> NodeState:
    """Of a node that was heard at least once; one that never was is lost."""
    seen = facts.nodes.get(name)
    if seen is None:
        return NodeState.LOST
    silence_s = facts.silence_s(seen.heard_at, now)
    if silence_s < timing.suspect_s:
        is_steady = seen.heard_at - seen.steady_since >= timing.steady_s
        return NodeState.READY if is_steady else NodeState.SUSPECT
    if silence_s < timing.lost_s:
        return NodeState.SUSPECT
    there = [r for r in book.runners.values() if r.node == name and not _superseded(seen, r)]
    if all(is_silent(facts, book, runner.id, now, timing) for runner in there):
        return NodeState.LOST
    return NodeState.UNREACHABLE


def next_silence(facts: Facts, now: float, timing: Timing) -> float:
    """When somebody's silence will next count for more; infinite where nobody is known."""
    heard_at = [seen.heard_at for seen in facts.nodes.values()]
    heard_at += [seen.heard_at for seen in facts.runners.values()]
    heard_at += [seen.heard_at for seen in facts.gateways.values()]
    counted_from = {max(at, facts.awake_since) for at in heard_at}
    limits_s = (timing.suspect_s, timing.lost_s, timing.hung_s)
    turns = (start + limit_s + _JUST_AFTER_S for start in counted_from for limit_s in limits_s)
    return min((turn for turn in turns if turn > now), default=math.inf)


def is_silent(facts: Facts, book: Book, runner: RunnerId, now: float, timing: Timing) -> bool:
    """Whether a runner counts as lost by its silence, under the witness rule."""
    seen = facts.runners.get(runner)
    if seen is None:
        return True
    silence_s = facts.silence_s(seen.heard_at, now)
    if silence_s < timing.lost_s:
        return False
    if not _is_serving(book, seen):
        return True
    words = list(_witnesses(facts, book, seen, now, timing))
    if words:
        return all(word >= timing.suspect_s for word in words)
    if silence_s < timing.hung_s or _stands(facts, book, seen, now, timing):
        return False
    return _hears_anyone(facts, now, timing)


def why_gone(node: NodeSeen, state: NodeState, runner: RunnerBook) -> str | None:
    """The sentence that says how a runner of the book ended; None while it may live.

    Only a complete inventory of the node's current incarnation, or the loss of the node, tells.
    """
    if _superseded(node, runner):
        return f"{runner.id} ended with the earlier incarnation of {runner.node}"
    for ended in node.facts.exits:
        if ended.runner_id == runner.id:
            return f"{runner.id} on {runner.node} {ended.sentence}"
    if state is NodeState.LOST:
        return f"{runner.node} is lost, and {runner.id} with it"
    if any(process.runner_id == runner.id for process in node.facts.processes):
        return None
    if runner.in_inventory:
        return f"{runner.id} is no longer among the processes of {runner.node}"
    return None


def _superseded(node: NodeSeen, runner: RunnerBook) -> bool:
    return node.facts.incarnation != runner.incarnation


def _is_serving(book: Book, seen: RunnerSeen) -> bool:
    """Whether tokens may flow through it: its line stands, by its own word and by the book."""
    seat, offer, line = seen.facts.seat, seen.facts.offer, seen.facts.line
    inst = book.instances.get(seat.instance) if seat else None
    stands = inst is not None and offer is not None and offer.epoch == inst.epoch
    return stands and seen.facts.state in _SERVING and not (line and line.broken)


def _gateway_words(facts: Facts, inst: InstanceBook, now: float, timing: Timing) -> Iterator[float]:
    for seen in facts.gateways.values():
        heard_s = facts.silence_s(seen.heard_at, now)
        if heard_s < timing.suspect_s:
            for link in seen.facts.links:
                if link.instance == inst.id and link.epoch == inst.epoch:
                    yield heard_s + link.silence_s


def _stands(facts: Facts, book: Book, seen: RunnerSeen, now: float, timing: Timing) -> bool:
    """Whether the line of a runner stands by the word of a gateway or of any rank that is heard:
    each leaves its line soon after another has, and a gateway hears who is in one."""
    seat = seen.facts.seat
    inst = book.instances.get(seat.instance) if seat else None
    if inst is None:
        return False
    words = list(_gateway_words(facts, inst, now, timing))
    for place in inst.seats:
        rank = facts.runners.get(place.runner) if place.runner else None
        if rank is not None and _is_serving(book, rank) and rank.facts.line is not None:
            line = rank.facts.line
            silences = (line.upstream_silence_s or 0.0, line.downstream_silence_s or 0.0)
            words.append(facts.silence_s(rank.heard_at, now) + max(silences))
    return any(word < timing.suspect_s for word in words)


def _hears_anyone(facts: Facts, now: float, timing: Timing) -> bool:
    """Who hears nobody at all is away itself."""
    heard_at = [seen.heard_at for seen in facts.nodes.values()]
    heard_at += [seen.heard_at for seen in facts.gateways.values()]
    return any(facts.silence_s(at, now) < timing.suspect_s for at in heard_at)


def _witnesses(
    facts: Facts, book: Book, accused: RunnerSeen, now: float, timing: Timing
) -> Iterator[float]:
    """Seconds of silence that each neighbour or gateway with a voice of its own has met with."""
    seat = accused.facts.seat
    inst = book.instances.get(seat.instance) if seat else None
    if seat is None or inst is None:
        return
    if seat.rank == 0:
        yield from _gateway_words(facts, inst, now, timing)
    size = len(inst.seats)
    for rank, place in enumerate(inst.seats):
        seen = facts.runners.get(place.runner) if place.runner else None
        if seen is None or rank == seat.rank:
            continue
        heard_s = facts.silence_s(seen.heard_at, now)
        if heard_s >= timing.suspect_s:
            continue
        line = seen.facts.line
        if line is None or not _is_serving(book, seen):
            yield float("inf")
        else:
            toward = []
            if (rank + 1) % size == seat.rank:
                toward.append(line.downstream_silence_s)
            if (rank - 1) % size == seat.rank:
                toward.append(line.upstream_silence_s)
            yield from (heard_s + word for word in toward if word is not None)
