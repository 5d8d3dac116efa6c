"""The cheapest line of all, for few nodes: dynamic programming over sets of nodes and layers.

A row is (first node, set of nodes, last node). Rows of n + 1 nodes come from rows of n by a hop to
one more node. Where several rows lead to the same, the cheapest counts, layer by layer: how it got
there does not matter for what follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paceline.planner.policy import Counts
from paceline.planner.steps import Steps
from paceline.planner.table import NEVER, Ints, Line
from paceline.planner.windows import Windows

EXACT_NODES = 8


@dataclass(frozen=True, slots=True)
class _Rows:
    """Lines of one length that do not reach the last layer yet. Ticks are [rows, layers + 1]."""

    first: Ints
    used: Ints
    """Nodes as bits."""
    last: Ints
    arrived: Ints
    """When a row of values stands before `last`, by its first layer."""
    done: Ints
    """When it has gone through layers [0, x)."""


def cheapest_line(windows: Windows, counts: Counts) -> Line | None:
    """The line of fewest ticks a token among those of `least` to `most` nodes, the shortest of
    equals; where there is none, the cheapest of the fewest nodes, up to `ceiling`."""
    return _Search(windows).run(counts)


class _Search:
    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._table = windows.table
        self._steps = Steps(windows)
        self._nodes = np.arange(self._table.count)
        self._most_bytes = windows.most_bytes
        self._lengths: list[_Rows] = []
        """Rows of one node, of two, and so on."""
        self._best = NEVER
        self._line: Line | None = None

    def run(self, counts: Counts) -> Line | None:
        for count in range(1, counts.ceiling + 1):
            rows = self._ones() if count == 1 else self._longer(self._lengths[-1])
            if not len(rows.last):
                break
            self._cut_hopeless(rows, counts.ceiling - count)
            self._lengths.append(rows)
            if count >= counts.least:
                self._finish(rows)
            if self._line and count >= counts.most:
                break
        return self._line

    def _ones(self) -> _Rows:
        nodes, steps = self._nodes, self._steps
        return _Rows(nodes, 1 << nodes, nodes, steps.arrive(len(nodes)), steps.begin(nodes))

    def _longer(self, rows: _Rows) -> _Rows:
        hop = self._table.hop[rows.last]
        row, node = np.nonzero(((rows.used[:, None] >> self._nodes) & 1 == 0) & (hop < NEVER))
        key = (rows.first[row] << self._table.count | rows.used[row] | 1 << node) << 8 | node
        order = np.argsort(key, kind="stable")
        groups = np.flatnonzero(np.diff(key[order], prepend=-1))
        row, node = row[order], node[order]
        came = rows.done[row] + hop[row, node][:, None]
        if len(came):
            came = np.minimum.reduceat(came, groups, axis=0)
        alive = came.min(axis=1) < NEVER
        came, groups = np.minimum(came[alive], NEVER), groups[alive]
        row, node = row[groups], node[groups]
        used = rows.used[row] | 1 << node
        return _Rows(rows.first[row], used, node, came, self._steps.go_on(came, node))

    def _cut_hopeless(self, rows: _Rows, left: int) -> None:
        """Forgets where the nodes that are left, so many at most, cannot hold what is left."""
        unused = (rows.used[:, None] >> self._nodes) & 1 == 0
        most = -np.sort(-np.where(unused, self._most_bytes, 0), axis=1)[:, :left].sum(axis=1)
        need = self._table.need
        rows.done[need[-1] - need > most[:, None]] = NEVER

    def _finish(self, rows: _Rows) -> None:
        """Takes the cheapest of these rows that go on to the last layer, if it is a better line."""
        if len(self._lengths) == 1:
            ends = self._steps.alone(rows.last)
        else:
            ends = self._steps.end(rows.arrived, rows.last, rows.first)
        row, start = np.unravel_index(int(ends.argmin()), ends.shape)
        if ends[row, start] < self._best:
            self._best = int(ends[row, start])
            nodes, stops = self._trace(len(self._lengths), int(row), int(start))
            self._line = Line(nodes, (*stops, self._table.layers))

    def _trace(self, count: int, row: int, start: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Nodes of a row, and where each but the last stops. Ticks are whole numbers: what led
        here is found by asking for exactly these."""
        rows = self._lengths[count - 1]
        node = int(rows.last[row])
        if count == 1:
            return (node,), ()
        before = self._lengths[count - 2]
        came = before.done[:, start] + self._table.hop[before.last, node]
        source = np.flatnonzero(
            (before.first == rows.first[row])
            & (before.used == rows.used[row] ^ 1 << node)
            & (came == rows.arrived[row, start])
        )[0]
        begin = self._begin(before, int(source), start)
        nodes, stops = self._trace(count - 1, int(source), begin)
        return (*nodes, node), (*stops, start)

    def _begin(self, rows: _Rows, row: int, stop: int) -> int:
        """Where the last node of a row started, to be done with `stop` layers when it was."""
        node, starts = int(rows.last[row]), np.arange(stop)
        done = rows.arrived[row, :stop] + self._table.ticks(node, starts, stop)
        allowed = self._windows.allowed(node, starts, stop)
        return int(np.flatnonzero(allowed & (done == rows.done[row, stop]))[0])
