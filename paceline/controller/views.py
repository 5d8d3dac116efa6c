"""The world as people see it: nodes and instances with their sentences."""

from __future__ import annotations

from paceline.controller.book import Book, InstanceBook, SeatBook
from paceline.controller.facts import Facts
from paceline.controller.ledger import Ledger
from paceline.controller.nodes import NodeState, drained
from paceline.controller.offers import pace
from paceline.planner import human_bytes
from paceline.types.facts import RunnerFacts
from paceline.types.ids import RunnerId
from paceline.types.instance import InstanceView, NodeView, RunnerView
from paceline.types.states import RunnerState


def instance_view(facts: Facts, book: Book, inst: InstanceBook) -> InstanceView:
    seen = [facts.runners.get(seat.runner) for seat in inst.seats if seat.runner]
    ids = {one.facts.numerics_id for one in seen if one}
    return InstanceView(
        id=inst.id,
        model=inst.wish.model,
        state=inst.state,
        epoch=inst.epoch,
        world_size=len(inst.seats),
        dtype=inst.dtype or inst.wish.dtype,
        reasons=inst.reasons or (f"{inst.state}: nothing has been decided yet",),
        runners=tuple(
            _runner_view(facts, seat, seat.runner)
            for seat in inst.seats
            if seat.runner is not None and seat.runner in book.runners
        ),
        numerics_id=ids.pop() if len(ids) == 1 else None,
        served=inst.served,
        retired=inst.retired,
        placed_because=inst.placed_because,
        forecast=inst.forecast,
    )


def instance_views(facts: Facts, book: Book) -> tuple[InstanceView, ...]:
    return tuple(instance_view(facts, book, inst) for inst in book.instances.values())


def node_views(facts: Facts, book: Book, now: float) -> tuple[NodeView, ...]:
    ledger, paces, closed = Ledger(facts, book), pace(facts), drained(facts, book)
    return tuple(
        NodeView(
            name=name,
            state=book.nodes.get(name, NodeState.SUSPECT),
            drained=name in closed,
            incarnation=seen.facts.incarnation,
            host=seen.facts.host,
            cpus=seen.facts.cpus,
            memory_bytes=seen.facts.memory_bytes,
            reserved_bytes=ledger.reserved(name),
            silence_s=round(max(0.0, now - seen.heard_at), 3),
            runners=tuple(process.runner_id for process in seen.facts.processes),
            seconds_per_byte=paces.get(name),
            links=seen.facts.links,
            given_bytes=seen.facts.given_bytes,
        )
        for name, seen in sorted(facts.nodes.items())
    )


def runner_facts(facts: Facts, book: Book) -> tuple[RunnerFacts, ...]:
    """The last word of every runner that this controller knows of."""
    seen = (facts.runners.get(runner) for runner in book.runners)
    return tuple(one.facts for one in seen if one is not None)


def sentences(facts: Facts, book: Book, now: float) -> tuple[str, ...]:
    """Why everything is as it is and what would change it."""
    said = [_node_sentence(book, node) for node in node_views(facts, book, now)] or [
        "no node has been heard yet"
    ]
    for inst in book.instances.values():
        reasons = inst.reasons or (f"{inst.state}: nothing has been decided yet",)
        said += [f"{inst.id} ({inst.wish.model}) {reason}" for reason in reasons]
    if not book.instances:
        said.append("no instance is wanted; `paceline run MODEL` starts one")
    return tuple(said)


def _node_sentence(book: Book, node: NodeView) -> str:
    used = f"{human_bytes(node.reserved_bytes)} of {human_bytes(node.memory_bytes)} reserved"
    blank = [r.id for r in book.runners.values() if r.node == node.name and r.is_blank]
    ready = f"; {', '.join(blank)} stands ready without a seat" if blank else ""
    drained = " and to be empty" if node.drained else ""
    return f"{node.name} is {node.state}{drained}: {used}{ready}"


def _runner_view(facts: Facts, seat: SeatBook, runner: RunnerId) -> RunnerView:
    seen = facts.runners.get(runner)
    return RunnerView(
        id=runner,
        rank=seat.plan.rank,
        node=seat.plan.node,
        pid=seen.facts.pid if seen else _pid(facts, seat, runner),
        state=seen.facts.state if seen else RunnerState.IDLE,
        layers=(seat.plan.shard.start, seat.plan.shard.stop),
        memory_bytes=seen.facts.measured_bytes if seen else None,
    )


def _pid(facts: Facts, seat: SeatBook, runner: RunnerId) -> int | None:
    node = facts.nodes.get(seat.plan.node)
    processes = node.facts.processes if node else ()
    return next((process.pid for process in processes if process.runner_id == runner), None)
