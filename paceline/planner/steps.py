"""The steps of a dynamic program over lines, for many lines at once: each row is a line, and holds
for every layer x the fewest ticks with which a row of values has gone through layers [0, x).

The cheapest start of a window is the minimum of (ticks on arrival - prefix of the node's ticks)
over the window: a range minimum, because ticks of layers are differences of prefix sums.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from paceline.planner.ranges import RangeMinimum
from paceline.planner.table import NEVER, Ints
from paceline.planner.windows import Windows


class Steps:
    """Under the windows. Arrays of ticks are [rows, layers + 1], NEVER where there is no way."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._table = windows.table
        self._layers = np.arange(self._table.layers + 1)
        self._minimum = RangeMinimum(windows.lows)
        self._held = [part for part in windows.held if part[2] < self._table.layers]
        self._held_ends = [part for part in windows.held if part[2] == self._table.layers]

    def arrive(self, count: int) -> Ints:
        """Before the first of several nodes, or the only one."""
        arrived = np.full((count, len(self._layers)), NEVER)
        arrived[:, 0] = 0
        return arrived

    def begin(self, nodes: Ints) -> Ints:
        """Through the first layers, on `nodes` [rows], the first of several."""
        first_stop = self._windows.first_stop[nodes][:, None]
        reached = (self._layers > 0) & (self._layers <= first_stop)
        done = np.where(reached, self._table.time[nodes], NEVER)
        return self._loaded(done, self.arrive(len(nodes)), nodes)

    def go_on(self, arrived: Ints, nodes: Ints) -> Ints:
        """Through some layers, on `nodes` [rows], neither first nor last."""
        time = self._table.time[nodes]
        done = np.minimum(self._minimum(arrived - time, nodes) + time, NEVER)
        done[:, -1] = NEVER
        return self._loaded(done, arrived, nodes)

    def end(self, arrived: Ints, nodes: Ints, first: Ints) -> Ints:
        """Through all further layers and back to the driver, by the layer that `nodes` [rows], the
        last of several, start at."""
        starts = self._layers >= self._windows.last_start[nodes][:, None]
        back = self._table.back[nodes, first][:, None]
        ends: Ints = np.minimum(self._rest(arrived, nodes, starts) + back, NEVER)
        return ends

    def alone(self, nodes: Ints) -> Ints:
        """Through all layers."""
        starts = self._windows.alone[nodes][:, None] & (self._layers == 0)
        return self._rest(self.arrive(len(nodes)), nodes, starts)

    def _rest(self, arrived: Ints, nodes: Ints, starts: NDArray[np.bool_]) -> Ints:
        table = self._table
        stage = (table.time[nodes, -1] + table.head[nodes])[:, None] - table.time[nodes]
        ends = np.where(starts & (self._layers < table.layers), arrived + stage, NEVER)
        for node, start, stop in self._held_ends:
            at = nodes == node
            ticks = arrived[at, start] + int(table.ticks(node, start, stop))
            ends[at, start] = np.minimum(ends[at, start], ticks)
        return np.minimum(ends, NEVER)

    def _loaded(self, done: Ints, arrived: Ints, nodes: Ints) -> Ints:
        """Layers that need no loading are cheaper, if taken exactly."""
        for node, start, stop in self._held:
            at = nodes == node
            ticks = arrived[at, start] + int(self._table.ticks(node, start, stop))
            done[at, stop] = np.minimum(done[at, stop], ticks)
        return done


def fewest_ticks(steps: Steps, hop: Ints, orders: Ints) -> Ints:
    """`orders` [lines, nodes], two nodes or more: of each line with its cheapest cut."""
    done = steps.begin(orders[:, 0])
    for rank in range(1, orders.shape[1]):
        node = orders[:, rank]
        arrived = np.minimum(done + hop[orders[:, rank - 1], node][:, None], NEVER)
        if rank < orders.shape[1] - 1:
            done = steps.go_on(arrived, node)
    ends: Ints = steps.end(arrived, orders[:, -1], orders[:, 0]).min(axis=1)
    return ends
