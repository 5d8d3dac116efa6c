"""From a wish, a model's sizes and what is measured of the nodes to a placement, or to the reasons
why there is none. Deterministic: equal inputs give equal answers, in whatever order they come."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from msgspec.structs import replace

from paceline.planner.budget import NodeBudget
from paceline.planner.cost import forecast
from paceline.planner.memory import MemoryModel
from paceline.planner.mending import OldSeat, mended
from paceline.planner.policy import Counts, counts
from paceline.planner.reasons import (
    evenest_line,
    too_few,
    why_kept,
    why_not,
    why_so_many,
)
from paceline.planner.search import best_line
from paceline.planner.table import NEVER, Line, Table, make_table
from paceline.planner.windows import make_windows
from paceline.planner.wish import kv_pages, memory_model
from paceline.types.instance import (
    InstanceWish,
    NoPlacement,
    Placement,
    Preview,
    SeatPlan,
)
from paceline.types.links import NO_LINKS, Links
from paceline.types.model import ModelFacts
from paceline.types.policy import DEFAULT_TIERS, Tier
from paceline.types.states import Objective

MOVE_GAIN = 0.2
"""Whoever of a line can stay does, unless another line is better by more than this."""


def plan(
    model: ModelFacts,
    nodes: Sequence[NodeBudget],
    wish: InstanceWish,
    *,
    sticky: Placement | None = None,
    links: Links = NO_LINKS,
    tiers: Sequence[Tier] = DEFAULT_TIERS,
) -> Placement | NoPlacement:
    """Put `model` on some of `nodes`, within the wish's bounds, as its objective says.

    For latency one node, where the model fits on one. `sticky` is the placement that was: its
    seats stay where they can, and others fill the holes, unless something much better is there;
    and what is loaded is used again where that costs little. Raises InvalidRequest for a wish that
    no cluster could ever meet.
    """
    return _Planner(model, nodes, wish, sticky, links).plan(tiers)


def preview(
    model: ModelFacts,
    nodes: Sequence[NodeBudget],
    wish: InstanceWish,
    *,
    links: Links = NO_LINKS,
    tiers: Sequence[Tier] = DEFAULT_TIERS,
) -> Preview:
    """The same, for people: where an instance would go, with its forecast, or why nowhere."""
    answer = plan(model, nodes, wish, links=links, tiers=tiers)
    return Preview(
        model=model.name,
        objective=wish.objective,
        placement=answer if isinstance(answer, Placement) else None,
        reasons=answer.reasons,
        disk_bytes=model.disk_bytes,
    )


class _Planner:
    def __init__(
        self,
        model: ModelFacts,
        nodes: Sequence[NodeBudget],
        wish: InstanceWish,
        sticky: Placement | None,
        links: Links,
    ) -> None:
        self._model, self._wish, self._links = model, wish, links
        self._memory = memory_model(model, wish)
        self._kv_pages = kv_pages(model, wish)
        self._sticky = sticky if sticky and self._is_of_this_kind(sticky) else None
        by_name = {node.name: node for node in nodes}
        ordered = sorted(by_name.values(), key=lambda node: (-node.free_bytes, node.name))
        self._nodes = [self._with_what_it_holds(node) for node in ordered]

    def plan(self, tiers: Sequence[Tier]) -> Placement | NoPlacement:
        model, nodes, wish = self._model, self._nodes, self._wish
        allowed = counts(wish, model.disk_bytes, len(nodes), self._memory.layers, tiers)
        if allowed is None:
            return NoPlacement(reasons=(too_few(wish, nodes),))
        table = make_table(self._memory, nodes, self._links, self._kv_pages)
        line = self._best(table, allowed)
        best = self._placement(line) if line else None
        kept = self._kept(table, allowed)
        if kept:
            gain = self._measure(kept) / self._measure(best) - 1 if best else 0.0
            if gain <= MOVE_GAIN:
                return replace(kept, reasons=(why_kept(gain, self._moved(kept)),))
        if best is None:
            return NoPlacement(
                reasons=why_not(self._memory, nodes, wish, table, allowed, self._kv_pages)
            )
        because = why_so_many(wish, model.disk_bytes, allowed, best.world_size)
        return replace(best, reasons=(because,))

    def _best(self, table: Table, allowed: Counts) -> Line | None:
        quick = self._wish.objective is Objective.LATENCY
        if quick and allowed.least == 1 and make_windows(table).alone.any():
            return best_line(table, self._wish.objective, Counts(1, 1, 1))
        line = best_line(table, self._wish.objective, allowed)
        if line is None:
            full, line = evenest_line(table, allowed)
            return line if full <= 1 and table.hops(line.nodes) < NEVER else None
        return line

    def _kept(self, table: Table, allowed: Counts) -> Placement | None:
        """The placement that was, mended where it no longer works, if the wish still allows it."""
        sticky = self._sticky
        if sticky is None or not allowed.least <= sticky.world_size <= allowed.ceiling:
            return None
        index = {node.name: i for i, node in enumerate(self._nodes)}
        seats = [
            OldSeat(index.get(seat.node), seat.shard.start, seat.shard.stop)
            for seat in sticky.seats
        ]
        line = mended(table, seats, self._wish.objective)
        return self._placement(line) if line else None

    def _moved(self, kept: Placement) -> list[int]:
        """Ranks that go to another node."""
        was = self._sticky.seats if self._sticky else ()
        pairs = zip(was, kept.seats, strict=True)
        return [old.rank for old, new in pairs if old.node != new.node]

    def _is_of_this_kind(self, placement: Placement) -> bool:
        """Whether its runners could be used as they are: all layers once, each on a node of its
        own, of the same dtype and with as many pages."""
        shards = [seat.shard for seat in placement.seats]
        return (
            placement.dtype == self._memory.dtype_name
            and len({seat.node for seat in placement.seats}) == len(shards) > 0
            and all(seat.kv_pages == self._kv_pages for seat in placement.seats)
            and all(shard.layers == self._memory.layers for shard in shards)
            and shards[0].is_first
            and shards[-1].is_last
            and all(a.stop == b.start for a, b in pairwise(shards))
        )

    def _with_what_it_holds(self, node: NodeBudget) -> NodeBudget:
        seats = self._sticky.seats if self._sticky else ()
        seated = tuple(seat.shard for seat in seats if seat.node == node.name)
        return replace(node, holds=(*node.holds, *seated)) if seated else node

    def _placement(self, line: Line) -> Placement:
        return placement(
            self._memory,
            self._links,
            self._kv_pages,
            [(self._nodes[node], start, stop) for node, start, stop in line.parts],
        )

    def _measure(self, placed: Placement) -> float:
        """What the objective wants little of, as it will be once everything is loaded."""
        predicted = placed.forecast
        assert predicted is not None  # made by placement()
        match self._wish.objective:
            case Objective.LATENCY:
                return predicted.seconds_per_token
            case Objective.THROUGHPUT:
                return 1 / predicted.tokens_per_s
            case Objective.MEMORY:
                return float(max(seat.memory_bytes for seat in placed.seats))


def placement(
    memory: MemoryModel,
    links: Links,
    kv_pages: int,
    parts: Sequence[tuple[NodeBudget, int, int]],
) -> Placement:
    """Seats and forecast of (node, start, stop) for each rank."""
    seats = []
    for rank, (node, start, stop) in enumerate(parts):
        shard = memory.shard(start, stop)
        need = memory.rank_bytes(shard, kv_pages)
        seats.append(
            SeatPlan(rank=rank, node=node.name, shard=shard, memory_bytes=need, kv_pages=kv_pages)
        )
    predicted = forecast(memory, seats, {node.name: node for node, _, _ in parts}, links)
    return Placement(seats=tuple(seats), dtype=memory.dtype_name, forecast=predicted)
