"""What a line has to bear, by the objective: the slowest of its stages and links, or the memory of
its fullest rank. For latency there is nothing to bear: what counts is the sum."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from paceline.planner.cut import cheapest_cut, lowest_peak
from paceline.planner.table import NEVER, Ints, Line, Table
from paceline.planner.windows import UNLIMITED, Limit, Windows, make_windows
from paceline.types.states import Objective


def load(table: Table, objective: Objective, line: Line) -> int:
    """Ticks for latency and throughput, bytes for memory: what the objective minimises."""
    if objective is Objective.LATENCY:
        return table.latency(line)
    if objective is Objective.MEMORY:
        return max(int(table.bytes(start, stop)) for _, start, stop in line.parts)
    links = [int(table.carry[a, b]) for a, b in pairwise(line.nodes)]
    return max([*(int(table.ticks(*part)) for part in line.parts), *links])


def limit(objective: Objective, peak: int) -> Limit:
    """That keeps what a line's ranks and links have to bear at `peak` or below."""
    if objective is Objective.LATENCY:
        return UNLIMITED
    return Limit(bytes=peak) if objective is Objective.MEMORY else Limit(ticks=peak)


def loads(windows: Windows, objective: Objective, nodes: Iterable[int], below: int) -> Ints:
    """Every load below a bound that a line of these nodes can have, rising."""
    table = windows.table
    layers = np.arange(table.layers + 1)
    found = [table.carry.ravel()] if objective is Objective.THROUGHPUT else []
    for node in nodes:
        found.append(_rank_loads(windows, objective, node, layers[:, None], layers).ravel())
    every = np.concatenate(found)
    return np.unique(every[every < below])


def best_cut(windows: Windows, objective: Objective, order: Sequence[int]) -> Line | None:
    """The cut of least load for nodes in this order, and of these the one of fewest ticks."""
    if objective is Objective.LATENCY:
        return cheapest_cut(windows, order)
    table = windows.table
    if len(order) > table.layers or table.hops(order) >= NEVER:
        return None
    peak, line = lowest_peak(
        table.layers,
        order,
        lambda node, starts, stops: _rank_loads(windows, objective, node, starts, stops),
    )
    if peak >= NEVER:
        return None
    least = load(table, objective, line)
    return cheapest_cut(make_windows(windows.table, limit(objective, least)), order)


def _rank_loads(
    windows: Windows, objective: Objective, node: int, starts: Ints, stops: Ints
) -> Ints:
    table = windows.table
    memory = objective is Objective.MEMORY
    borne = table.bytes(starts, stops) if memory else table.ticks(node, starts, stops)
    return np.where(windows.allowed(node, starts, stops), borne, NEVER)
