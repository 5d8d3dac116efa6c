"""Where to cut the layers, given the nodes of a line in order: exact, by dynamic programming over
(ranks used, layers placed). Every rank gets at least one layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paceline.planner.table import NEVER, Ints, Line
from paceline.planner.windows import Windows

Load = Callable[[int, Ints, Ints], NDArray[Any]]
"""Of a node with layers [start, stop): starts [n, 1] and stops [m] give [n, m]."""


def cheapest_cut(windows: Windows, order: Sequence[int]) -> Line | None:
    """The cut of fewest ticks within the windows; of equal ones the most even, by the squares of
    how full it makes each node. None: there is no cut, or the order leads over a bad edge."""
    table = windows.table
    if len(order) > table.layers or table.hops(order) >= NEVER:
        return None
    ticks, fill = np.zeros(1, dtype=np.int64), np.zeros(1)
    choices: list[Ints] = []
    for rank, node in enumerate(order):
        starts, stops = _span(table.layers, len(order), rank)
        cost = np.where(
            windows.allowed(node, starts, stops), table.ticks(node, starts, stops), NEVER
        )
        total = np.minimum(ticks[:, None] + cost, NEVER)
        ticks = total.min(axis=0)
        share = table.bytes(starts, stops) / max(int(table.room[node]), 1)
        filled = np.where(total == ticks, fill[:, None] + share**2, np.inf)
        choices.append(filled.argmin(axis=0))
        fill = filled.min(axis=0)
    if ticks[0] >= NEVER:
        return None
    return Line(tuple(order), _stops(table.layers, choices))


def lowest_peak(layers: int, order: Sequence[int], load: Load) -> tuple[float, Line]:
    """The cut whose most loaded rank has the least to bear, and that load."""
    peak = np.zeros(1)
    choices: list[Ints] = []
    for rank, node in enumerate(order):
        starts, stops = _span(layers, len(order), rank)
        peaks = np.maximum(peak[:, None], load(node, starts, stops))
        choices.append(peaks.argmin(axis=0))
        peak = peaks.min(axis=0)
    return peak[0], Line(tuple(order), _stops(layers, choices))


def _span(layers: int, ranks: int, rank: int) -> tuple[Ints, Ints]:
    """Where a rank may start, as a column, and where it may stop, as a row: the first starts the
    model, the last ends it, and everybody leaves a layer for each of the others."""
    after = ranks - rank - 1
    starts = np.arange(rank, layers - after) if rank else np.zeros(1, dtype=np.int64)
    stops = np.arange(rank + 1, layers - after + 1) if after else np.array([layers])
    return starts[:, None], stops


def _stops(layers: int, choices: Sequence[Ints]) -> tuple[int, ...]:
    """`choices`: for each rank, and each of its stops, which of its starts is best. The starts of
    a rank are the stops of the one before."""
    stops, stop = [layers], 0
    for rank in range(len(choices) - 1, 0, -1):
        stop = int(choices[rank][stop])
        stops.append(rank + stop)
    return tuple(reversed(stops))
