"""What a token costs on a line, in seconds: stages and the hops between them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from paceline.planner.budget import DEFAULT_SECONDS_PER_BYTE, NodeBudget
from paceline.planner.memory import VALUE_BYTES, MemoryModel
from paceline.types.ids import NodeName
from paceline.types.instance import Forecast, RankForecast, SeatPlan
from paceline.types.links import Link, Links

Floats = NDArray[np.float64]

FRAME_BYTES = 256
"""Header, checksum and encryption of a frame."""

SLOWEST_S = 1e-6
"""Per byte: a node, and a link, is at least as fast as 1 MB/s, or of no use anyway."""

LONGEST_TRIP_S = 1000.0
NOBODY = NodeName("")


def byte_s(node: NodeBudget) -> float:
    """Seconds per byte of weights, made usable."""
    given = node.seconds_per_byte
    return DEFAULT_SECONDS_PER_BYTE if given is None or not given > 0 else min(given, SLOWEST_S)


def trips_s(round_trip_s: Floats) -> Floats:
    """[edges]: one way, of a small message."""
    return np.where(round_trip_s > 0, np.minimum(round_trip_s, LONGEST_TRIP_S) / 2, 0.0)


def carries_s(bytes_per_s: Floats, memory: MemoryModel) -> Floats:
    """[edges]: for which a row of hidden values keeps each of them busy."""
    count = memory.model.width * VALUE_BYTES + FRAME_BYTES
    return count / np.where(bytes_per_s > 0, np.maximum(bytes_per_s, 1 / SLOWEST_S), 1 / SLOWEST_S)


def trip_s(link: Link) -> float:
    return float(trips_s(np.array(link.round_trip_s)))


def carry_s(link: Link, memory: MemoryModel) -> float:
    return float(carries_s(np.array(link.bytes_per_s), memory))


class Edges:
    """The edges among some nodes, by their two ends."""

    def __init__(self, links: Links, names: Collection[NodeName]) -> None:
        self._links = links
        self._measured: dict[frozenset[NodeName], Link] = {}
        for link in links.measured:
            if link.a in names and link.b in names and link.a != link.b:
                ends = frozenset((link.a, link.b))
                known = self._measured.get(ends)
                self._measured[ends] = _worse(known, link) if known else link

    def between(self, a: NodeName, b: NodeName) -> Link:
        return self._measured.get(frozenset((a, b))) or unmeasured(self._links, a, b)


def unmeasured(links: Links, a: NodeName = NOBODY, b: NodeName = NOBODY) -> Link:
    """What an edge counts as that nobody has measured."""
    return Link(a=a, b=b, round_trip_s=links.round_trip_s, bytes_per_s=links.bytes_per_s)


def _worse(one: Link, other: Link) -> Link:
    return Link(
        a=one.a,
        b=one.b,
        round_trip_s=max(one.round_trip_s, other.round_trip_s),
        bytes_per_s=min(one.bytes_per_s, other.bytes_per_s),
        bad=one.bad or other.bad,
    )


def forecast(
    memory: MemoryModel,
    seats: Sequence[SeatPlan],
    nodes: Mapping[NodeName, NodeBudget],
    links: Links,
) -> Forecast:
    """Predicts a placement; its reserved bytes are taken from the seats."""
    edges = Edges(links, {seat.node for seat in seats})
    last = len(seats) - 1
    ranks, busiest = [], 0.0
    for seat in seats:
        node = nodes[seat.node]
        stage = byte_s(node) * read_bytes(memory, seat)
        hop = 0.0
        if seat.rank < last:
            onward = edges.between(seat.node, seats[seat.rank + 1].node)
            hop = trip_s(onward) + carry_s(onward, memory)
            busiest = max(busiest, carry_s(onward, memory))
        elif last:
            hop = trip_s(edges.between(seat.node, seats[0].node))
        busiest = max(busiest, stage)
        ranks.append(
            RankForecast(
                rank=seat.rank,
                weight_bytes=memory.weight_bytes(seat.shard),
                kv_bytes=memory.kv_bytes(seat.shard, seat.kv_pages),
                memory_bytes=seat.memory_bytes,
                free_bytes=node.free_bytes,
                stage_s=stage,
                hop_s=hop,
            )
        )
    return Forecast(
        seconds_per_token=sum(rank.stage_s + rank.hop_s for rank in ranks),
        tokens_per_s=1 / busiest,
        ranks=tuple(ranks),
    )


def read_bytes(memory: MemoryModel, seat: SeatPlan) -> int:
    """Weights that a row meets in a rank: all its layers and the head; of an embedding only one
    row is read."""
    shard = seat.shard
    layers = memory.layer_weights[shard.stop] - memory.layer_weights[shard.start]
    return layers + (memory.head_weights if shard.is_last else 0)
