"""The best line that there is: exactly for few nodes, by a good heuristic for many."""

from __future__ import annotations

import numpy as np

from paceline.planner.cut import cheapest_cut
from paceline.planner.exact import EXACT_NODES, cheapest_line
from paceline.planner.goal import limit, load, loads
from paceline.planner.heuristic import good_line
from paceline.planner.policy import Counts
from paceline.planner.table import Line, Table
from paceline.planner.windows import make_windows
from paceline.types.states import Objective


def best_line(table: Table, objective: Objective, counts: Counts) -> Line | None:
    """Of `least` to `most` nodes; where there is none, of as few more as there must be, up to
    `ceiling`. Of lines of equal load that of fewest ticks a token."""
    usable = make_windows(table).usable
    few = usable[:EXACT_NODES]
    line, among = None, usable
    if len(usable) > len(few):
        line = good_line(table.take(usable), objective, counts)
    if line is None and len(few):
        # Many nodes and no good line: what the roomiest few can hold is found for certain.
        line, among = exact_line(table.take(few), objective, counts), few
    if line is None:
        return None
    nodes = tuple(int(among[node]) for node in line.nodes)
    # Of the cuts that are as good, the most even one.
    least = load(table, objective, Line(nodes, line.stops))
    return cheapest_cut(make_windows(table, limit(objective, least)), nodes)


def exact_line(table: Table, objective: Objective, counts: Counts) -> Line | None:
    """For few nodes. For throughput and memory by bisection over all loads that a line can have,
    with an exact search under each; a good line to begin with leaves little to search."""
    windows = make_windows(table)
    best = cheapest_line(windows, counts)
    if best is None or objective is Objective.LATENCY:
        return best
    fixed = len(best.nodes) if len(best.nodes) > counts.most else None
    counts = Counts(fixed or counts.least, fixed or counts.most, fixed or counts.most)
    good = good_line(table, objective, counts)
    known = min(load(table, objective, line) for line in (best, good) if line)
    peaks = loads(windows, objective, range(table.count), known + 1)
    low, high, probe = 0, len(peaks), len(peaks) - 1
    while low < high:
        line = cheapest_line(make_windows(table, limit(objective, int(peaks[probe]))), counts)
        if line is None:
            low = probe + 1
        else:
            best = line
            high = int(np.searchsorted(peaks, load(table, objective, line)))
        first = probe == len(peaks) - 1
        probe = high - 1 if first else (low + high) // 2
    return best
