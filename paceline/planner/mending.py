"""A line some of whose seats cannot stay: the others keep their layers, and each hole goes to the
node that fills it best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paceline.planner.table import NEVER, Line, Table
from paceline.types.states import Objective


@dataclass(frozen=True, slots=True)
class OldSeat:
    """A rank of the line that was; `node` is None where that is no longer offered."""

    node: int | None
    start: int
    stop: int


def mended(table: Table, seats: Sequence[OldSeat], objective: Objective) -> Line | None:
    """The line that was, with other nodes where its own are gone, have no room or cannot reach
    their neighbours. None if nobody could stay, or a hole cannot be filled."""
    nodes = [seat.node if _has_room(table, seat) else None for seat in seats]
    _break_bad_edges(table, nodes)
    if all(node is None for node in nodes):
        return None
    while holes := [rank for rank, node in enumerate(nodes) if node is None]:
        able = {rank: _in_order(table, nodes, rank, seats[rank], objective) for rank in holes}
        # Whoever has the least choice chooses first.
        rank = min(holes, key=lambda rank: len(able[rank]))
        if not able[rank]:
            return None
        nodes[rank] = able[rank][0]
    whole = tuple(node for node in nodes if node is not None)
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


def _in_order(
    table: Table, nodes: Sequence[int | None], rank: int, seat: OldSeat, objective: Objective
) -> list[int]:
    """The free nodes with room that reach the neighbours, best first: who does these layers and
    reaches both soonest, or for throughput whoever holds up the line least."""
    busiest = table.ticks_of_each(seat.start, seat.stop)
    way = busiest.copy()
    before, after = nodes[rank - 1], nodes[(rank + 1) % len(nodes)]
    if before is not None:
        way += (table.hop if rank > 0 else table.back)[before]
        busiest = np.maximum(busiest, table.carry[before])
    if after is not None:
        way += (table.hop if rank + 1 < len(nodes) else table.back)[:, after]
        busiest = np.maximum(busiest, table.carry[:, after])
    usable = (way < NEVER) & (table.room >= table.bytes(seat.start, seat.stop))
    usable[[node for node in nodes if node is not None]] = False
    keys = (way, busiest) if objective is Objective.THROUGHPUT else (way,)
    order = np.lexsort(keys)
    return [int(node) for node in order[usable[order]]]
