"""What ready nodes offer to the planner: free memory, pace, layers they hold, ways between them.

Measured figures are taken coarsely: noise neither asks the planner again nor decides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec.structs import replace

from paceline.controller.book import InstanceBook
from paceline.controller.facts import Facts, RunnerSeen
from paceline.controller.ledger import Ledger
from paceline.planner import NodeBudget, coarse
from paceline.types.ids import NodeName
from paceline.types.links import Link, Links
from paceline.types.model import Shard


def budgets(
    facts: Facts, ledger: Ledger, inst: InstanceBook, ready: Collection[NodeName]
) -> tuple[NodeBudget, ...]:
    """Of these nodes, by name. The instance's own runners, and blank ones, count as gone."""
    paces, held = pace(facts), _held(facts, inst)
    return tuple(
        NodeBudget(
            name=name,
            memory_bytes=ledger.capacity(name),
            free_bytes=ledger.free_for(inst, name),
            seconds_per_byte=coarse(paces[name]) if name in paces else None,
            holds=held.get(name, ()),
        )
        for name in sorted(ready)
    )


def links(facts: Facts, ready: Collection[NodeName]) -> Links:
    """What these nodes have measured of the ways to each other."""
    return Links(measured=tuple(_coarsely(link) for link in measured(facts, ready)))


def measured(facts: Facts, ready: Collection[NodeName]) -> list[Link]:
    return [
        link for name in sorted(ready) for link in facts.nodes[name].facts.links if link.b in ready
    ]


def _coarsely(link: Link) -> Link:
    return replace(
        link, round_trip_s=coarse(link.round_trip_s), bytes_per_s=coarse(link.bytes_per_s)
    )


def pace(facts: Facts) -> Mapping[NodeName, float]:
    """Seconds per byte of weights: the quickest runner counts, the others met other work."""
    found: dict[NodeName, float] = {}
    for seen in facts.runners.values():
        measured_s, node = seen.facts.seconds_per_byte, seen.facts.node
        if measured_s is not None and _is_current(facts, seen):
            found[node] = min(measured_s, found.get(node, measured_s))
    return found


def _held(facts: Facts, inst: InstanceBook) -> Mapping[NodeName, tuple[Shard, ...]]:
    found: dict[NodeName, tuple[Shard, ...]] = {}
    for seen in facts.runners.values():
        runner = seen.facts
        mine = runner.seat is not None and runner.seat.instance == inst.id
        if mine and runner.shard is not None and _is_current(facts, seen):
            found[runner.node] = (*found.get(runner.node, ()), runner.shard)
    return found


def _is_current(facts: Facts, seen: RunnerSeen) -> bool:
    node = facts.nodes.get(seen.facts.node)
    return node is not None and node.facts.incarnation == seen.facts.incarnation
