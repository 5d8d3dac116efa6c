"""All that a search asks, as arrays of whole numbers: bytes, and ticks of a picosecond.

Whole numbers add up the same in any order, so equal lines have equal costs, ties are ties, and
the exact search is exact. Nodes are indices, in their order of preference: most room first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from paceline.planner.budget import NodeBudget
from paceline.planner.cost import byte_s, carries_s, carry_s, trip_s, trips_s, unmeasured
from paceline.planner.memory import HEADROOM, PROCESS_BYTES, MemoryModel
from paceline.types.links import Links

Ints = NDArray[np.int64]

TICKS_PER_S = 10**12
NEVER = 2**61
"""Ticks of what cannot be. Twice this still fits."""

HELD = 0.9
"""A rank whose layers are loaded already counts as so much quicker: a small gain moves nothing."""
FETCHED = 1.15
"""One whose layers are not on the node's disk counts as so much slower."""

_FIELDS = attrgetter("a", "b", "round_trip_s", "bytes_per_s", "bad")


@dataclass(frozen=True, slots=True)
class Line:
    """An order of nodes, and where each one's layers stop."""

    nodes: tuple[int, ...]
    stops: tuple[int, ...]

    @property
    def parts(self) -> list[tuple[int, int, int]]:
        """(node, start, stop) of each rank."""
        starts = (0, *self.stops[:-1])
        return list(zip(self.nodes, starts, self.stops, strict=True))


@dataclass(frozen=True)
class Table:
    """Ticks of layers are prefix sums, [nodes, layers + 1], and those of the head [nodes]; `held_…`
    are for layers that are loaded already."""

    need: Ints
    """Allocated bytes of the first 0, 1, 2 … layers."""
    fixed: int
    """Allocated by any rank, and further by the first, the last, less by one that is both."""
    first_extra: int
    last_extra: int
    shared: int
    room: Ints
    """What each node can allocate: its free bytes without headroom and process."""
    time: Ints
    held_time: Ints
    head: Ints
    held_head: Ints
    hop: Ints
    """[nodes, nodes]: to bring a row of values onward; NEVER over a bad edge."""
    back: Ints
    """[nodes, nodes]: to bring a sampled id from the last to the first."""
    carry: Ints
    """[nodes, nodes]: for how long a row keeps the link busy."""
    held: tuple[tuple[int, int, int], ...]
    """(node, start, stop) of shards that need no loading."""

    @property
    def count(self) -> int:
        return len(self.room)

    @property
    def layers(self) -> int:
        return len(self.need) - 1

    @cached_property
    def held_by(self) -> dict[int, list[tuple[int, int]]]:
        found: dict[int, list[tuple[int, int]]] = {}
        for node, start, stop in self.held:
            found.setdefault(node, []).append((start, stop))
        return found

    def bytes(self, start: Ints | int, stop: Ints | int) -> Ints:
        """Allocated bytes of layers [start, stop); arrays broadcast."""
        first, last = np.equal(start, 0), np.equal(stop, self.layers)
        extras = first * self.first_extra + last * self.last_extra - (first & last) * self.shared
        total: Ints = self.need[stop] - self.need[start] + self.fixed + extras
        return total

    def ticks(self, node: int, start: Ints | int, stop: Ints | int) -> Ints:
        """For a node to bring a row through layers [start, stop); arrays broadcast."""
        last = np.equal(stop, self.layers)
        total: Ints = self.time[node][stop] - self.time[node][start] + last * self.head[node]
        for a, b in self.held_by.get(node, ()):
            ticks = self.held_time[node, b] - self.held_time[node, a]
            ticks += self.held_head[node] * (b == self.layers)
            total = np.where(np.equal(start, a) & np.equal(stop, b), ticks, total)
        return total

    @cached_property
    def whole_ticks(self) -> Ints:
        """[nodes]: for each to do all layers."""
        return self.ticks_of_each(0, self.layers)

    def ticks_of_each(self, start: int, stop: int) -> Ints:
        """[nodes]: for each to bring a row through layers [start, stop)."""
        found: Ints = self.time[:, stop] - self.time[:, start] + self.head * (stop == self.layers)
        for node in self.held_by:
            found[node] = self.ticks(node, start, stop)
        return found

    def latency(self, line: Line) -> int:
        """Ticks of one token; NEVER or more over a bad edge."""
        return sum(int(self.ticks(*part)) for part in line.parts) + self.hops(line.nodes)

    def hops(self, order: Sequence[int]) -> int:
        """Ticks between the nodes of a line, and back to the driver."""
        if len(order) == 1:
            return 0
        onward = sum(int(self.hop[a, b]) for a, b in pairwise(order))
        return min(onward + int(self.back[order[-1], order[0]]), NEVER)

    def take(self, nodes: Ints) -> Table:
        """The same of these nodes only, in this order."""
        place = {int(node): i for i, node in enumerate(nodes)}
        return replace(
            self,
            room=self.room[nodes],
            time=self.time[nodes],
            held_time=self.held_time[nodes],
            head=self.head[nodes],
            held_head=self.held_head[nodes],
            hop=self.hop[np.ix_(nodes, nodes)],
            back=self.back[np.ix_(nodes, nodes)],
            carry=self.carry[np.ix_(nodes, nodes)],
            held=tuple((place[n], a, b) for n, a, b in self.held if n in place),
        )


def make_table(
    memory: MemoryModel,
    nodes: Sequence[NodeBudget],
    links: Links,
    kv_pages: int,
) -> Table:
    """`nodes` in their order of preference, no name twice."""
    weights = _parts(memory.layer_weights)
    speeds = np.array([byte_s(node) * TICKS_PER_S for node in nodes])
    plain = np.outer(speeds, [*weights, memory.head_weights])
    time, held = plain * _slowdown(nodes, memory.layers), plain * HELD
    hop, back, carry = _edges(memory, nodes, links)
    return Table(
        need=_prefix(weights + memory.layer_kv(kv_pages)),
        fixed=memory.step_activations,
        first_extra=memory.embed_weights,
        last_extra=memory.head_weights + memory.sample_activations,
        shared=memory.shared_weights,
        room=np.array([allocatable(node.free_bytes) for node in nodes], dtype=np.int64),
        time=_prefix(_whole(time[:, :-1])),
        held_time=_prefix(_whole(held[:, :-1])),
        head=_whole(time[:, -1]),
        held_head=_whole(held[:, -1]),
        hop=hop,
        back=back,
        carry=carry,
        held=tuple(
            (i, shard.start, shard.stop)
            for i, node in enumerate(nodes)
            for shard in sorted(set(node.holds), key=lambda shard: (shard.start, shard.stop))
            if shard.layers == memory.layers and 0 <= shard.start < shard.stop <= shard.layers
        ),
    )


def allocatable(free_bytes: int) -> int:
    """Most bytes that a rank may allocate so that, with headroom and process, it fits."""
    room = free_bytes - PROCESS_BYTES
    whole, rest = divmod(room, HEADROOM + 1)
    return HEADROOM * whole + min(rest, HEADROOM - 1)


def _slowdown(nodes: Sequence[NodeBudget], layers: int) -> NDArray[np.float64]:
    """[nodes, layers + 1]: of each layer, and lastly the head. What is loaded is on disk."""
    rows = np.ones((len(nodes), layers + 1))
    for row, node in zip(rows, nodes, strict=True):
        if not node.on_disk:
            row[:] = FETCHED
            for shard in node.holds:
                row[shard.start : shard.stop + shard.is_last] = 1
    return rows


def _edges(
    memory: MemoryModel, nodes: Sequence[NodeBudget], links: Links
) -> tuple[Ints, Ints, Ints]:
    """Hop, back and carry. Of several reports of an edge the longest time of each counts."""
    index = {node.name: i for i, node in enumerate(nodes)}
    found = [
        _FIELDS(link)
        for link in links.measured
        if link.a in index and link.b in index and link.a != link.b
    ]
    usual = unmeasured(links)
    shape = (len(nodes), len(nodes))
    trip, carry = np.full(shape, -1.0), np.full(shape, -1.0)
    bad = np.eye(len(nodes), dtype=bool)
    if found:
        one, other, trips, rates, bads = zip(*found, strict=True)
        a, b = (np.array([index[name] for name in names]) for names in (one, other))
        for ends in ((a, b), (b, a)):
            np.maximum.at(trip, ends, trips_s(np.array(trips)))
            np.maximum.at(carry, ends, carries_s(np.array(rates), memory))
            np.logical_or.at(bad, ends, bads)
    known = trip >= 0
    trip = _whole(np.where(known, trip, trip_s(usual)) * TICKS_PER_S)
    carry = _whole(np.where(known, carry, carry_s(usual, memory)) * TICKS_PER_S)
    return np.where(bad, NEVER, trip + carry), np.where(bad, NEVER, trip), carry


def _whole(values: NDArray[np.float64]) -> Ints:
    return np.rint(values).astype(np.int64)


def _parts(sums: Sequence[int]) -> Ints:
    return np.array([b - a for a, b in pairwise(sums)], dtype=np.int64)


def _prefix(layers: Ints) -> Ints:
    sums = np.zeros((*layers.shape[:-1], layers.shape[-1] + 1), dtype=np.int64)
    np.cumsum(layers, axis=-1, out=sums[..., 1:])
    return sums
