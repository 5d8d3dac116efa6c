"""Minima over windows of layers, for many rows at once."""

from __future__ import annotations

import numpy as np

from paceline.planner.table import NEVER, Ints


class RangeMinimum:
    """For each row and each stop: the smallest of the values from the window's low up to the stop,
    itself left out; NEVER where the window is empty.

    A sparse table: minima of every 1, 2, 4 … neighbours, and two overlapping ones per window.
    """

    def __init__(self, lows: Ints) -> None:
        """`lows` [nodes, layers + 1]: by the stop."""
        width = lows.shape[1]
        stops = np.arange(width)
        size = stops - lows
        self._empty = size <= 0
        power = np.log2(np.maximum(size, 1)).astype(np.int64)
        self._powers = int(power.max()) + 1
        begins = np.cumsum([0, *(width - 2**p + 1 for p in range(self._powers - 1))])
        self._left = begins[power] + np.where(self._empty, 0, lows)
        self._right = begins[power] + np.where(self._empty, 0, stops - 2**power)

    def __call__(self, values: Ints, nodes: Ints) -> Ints:
        """`values` [rows, layers + 1] by the window's start; `nodes` [rows]: whose windows."""
        levels = [values]
        for power in range(self._powers - 1):
            half, wide = 2**power, levels[-1]
            levels.append(np.minimum(wide[:, :-half], wide[:, half:]))
        table = np.concatenate(levels, axis=1)
        found: Ints = np.minimum(
            np.take_along_axis(table, self._left[nodes], axis=1),
            np.take_along_axis(table, self._right[nodes], axis=1),
        )
        found[self._empty[nodes]] = NEVER
        return found
