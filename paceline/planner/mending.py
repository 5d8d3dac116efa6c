"""A line some of whose seats cannot stay: the others keep their layers, and each hole goes to the
node that fills it best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paceline.planner.table import NEVER, Ints, Line, Table


@dataclass(frozen=True, slots=True)
class OldSeat:
    """A rank of the line that was; `node` is None where that is no longer offered."""

    node: int | None
    start: int
    stop: int


def mended(table: Table, seats: Sequence[OldSeat]) -> Line | None:
    """The line that was, with other nodes where its own are gone, have no room or cannot reach
    their neighbours. None if nobody could stay, or a hole cannot be filled."""
    nodes = [seat.node if _has_room(table, seat) else None for seat in seats]
    _break_bad_edges(table, nodes)
    if all(node is None for node in nodes):
        return None
    for rank, seat in enumerate(seats):
        if nodes[rank] is None:
            nodes[rank] = _quickest(table, nodes, rank, seat)
    whole = tuple(node for node in nodes if node is not None)
    if len(whole) < len(seats) or table.hops(whole) >= NEVER:
        return None
    return Line(whole, tuple(seat.stop for seat in seats))


def _has_room(table: Table, seat: OldSeat) -> bool:
    node = seat.node
    return node is not None and bool(table.bytes(seat.start, seat.stop) <= table.room[node])


def _break_bad_edges(table: Table, nodes: list[int | None]) -> None:
    """Empties seats until no two neighbours are left that cannot reach each other: first those with
    both neighbours out of reach, and of equals the later, for the driver has the streams."""
    while bad := [rank for rank in range(len(nodes)) if _bad_edges(table, nodes, rank)]:
        worst = max(bad, key=lambda rank: (_bad_edges(table, nodes, rank), rank))
        nodes[worst] = None


def _bad_edges(table: Table, nodes: Sequence[int | None], rank: int) -> int:
    node = nodes[rank]
    if node is None:
        return 0
    around = {(rank - 1) % len(nodes), (rank + 1) % len(nodes)} - {rank}
    others = [other for other in (nodes[i] for i in around) if other is not None]
    return sum(bool(table.hop[node, other] >= NEVER) for other in others)


def _quickest(table: Table, nodes: Sequence[int | None], rank: int, seat: OldSeat) -> int | None:
    """The free node with room that does these layers, and reaches the neighbours, soonest."""
    cost = _ticks_of_all(table, seat)
    before = nodes[rank - 1]
    after = nodes[(rank + 1) % len(nodes)]
    if before is not None:
        cost += (table.hop if rank > 0 else table.back)[before]
    if after is not None:
        cost += (table.hop if rank + 1 < len(nodes) else table.back)[:, after]
    usable = (cost < NEVER) & (table.room >= table.bytes(seat.start, seat.stop))
    usable[[node for node in nodes if node is not None]] = False
    if not usable.any():
        return None
    return int(np.where(usable, cost, NEVER).argmin())


def _ticks_of_all(table: Table, seat: OldSeat) -> Ints:
    """[nodes]: of each for the seat's layers."""
    ticks: Ints = table.time[:, seat.stop] - table.time[:, seat.start]
    if seat.stop == table.layers:
        ticks = ticks + table.head
    for node in table.held_by:
        ticks[node] = table.ticks(node, seat.start, seat.stop)
    return ticks
