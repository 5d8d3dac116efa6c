"""Where streams go: one route for each instance whose line stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from paceline.controller.book import Book, InstanceBook
from paceline.controller.facts import Facts
from paceline.controller.nodes import NodeState
from paceline.controller.sources import sources_of
from paceline.controller.views import instance_views
from paceline.types.control import ControllerCounts, Route, Routes
from paceline.types.states import InstanceState
from paceline.types.weights import ModelSources


def routes(
    facts: Facts, book: Book, events: Mapping[str, int], strangers: Mapping[str, int]
) -> Routes:
    """`events`: how many of each kind were logged. `strangers`: how many came to what process."""
    found = (_route(facts, inst) for inst in book.instances.values())
    return Routes(
        routes=tuple(route for route in found if route is not None),
        instances=instance_views(facts, book),
        term=book.term,
        counts=ControllerCounts(
            tasks=dict(book.task_counts),
            events=dict(events),
            nodes=dict(Counter(book.nodes.values())),
            strangers=dict(strangers),
        ),
        models=_models(facts, book),
    )


def _models(facts: Facts, book: Book) -> tuple[ModelSources, ...]:
    ready = [name for name in facts.nodes if book.nodes.get(name) == NodeState.READY]
    wanted = sorted({inst.wish.model for inst in book.instances.values()})
    found = (sources_of(facts, model, ready) for model in wanted)
    return tuple(each for each in found if each is not None)


def _route(facts: Facts, inst: InstanceBook) -> Route | None:
    """None unless the driver has said where it takes streams in the epoch that stands."""
    if inst.state is not InstanceState.READY or inst.epoch is None or inst.seats[0].runner is None:
        return None
    seen = facts.runners.get(inst.seats[0].runner)
    offer = seen.facts.offer if seen else None
    if seen is None or offer is None or offer.epoch != inst.epoch or offer.front_address is None:
        return None
    load = seen.facts.load
    return Route(
        instance=inst.id,
        model=inst.wish.model,
        epoch=inst.epoch,
        node=seen.facts.node,
        address=offer.front_address,
        public_key=offer.public_key,
        numerics_id=seen.facts.numerics_id or "",
        running=load.running if load else 0,
        waiting=load.waiting if load else 0,
        pages_total=load.pages_total if load else seen.facts.kv_pages,
        prefix_queries=load.prefix_queries if load else 0,
        prefix_hits=load.prefix_hits if load else 0,
        guesses_made=load.guesses_made if load else 0,
        guesses_right=load.guesses_right if load else 0,
    )
