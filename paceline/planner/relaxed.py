"""Lines as if all layers were alike: then the best cut is known at once, for thousands of orders
of nodes in a few array operations. Exact for models whose layers are alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from paceline.planner.table import NEVER, Ints, Table
from paceline.planner.windows import UNLIMITED, Limit, first_stops, last_starts

Floats = NDArray[np.float64]

ROLES = 3
MIDDLE, FIRST, LAST = range(ROLES)


class Relaxed:
    """Of a table under a limit. `caps` [nodes, roles]: most layers that a node takes as one of the
    middle, the first or the last."""

    def __init__(self, table: Table, limit: Limit = UNLIMITED) -> None:
        self.limit = limit
        self.layers = table.layers
        self.pace = _paces(table)
        self.head = table.head.astype(float)
        self.hop = np.where(table.carry > limit.ticks, NEVER, table.hop).astype(float)
        self.back = table.back.astype(float)
        self.caps = _caps(table, self.pace, limit)
        by_pace = np.argsort(self.pace, kind="stable")
        self._place = np.argsort(by_pace, kind="stable")
        """[nodes]: how many nodes are quicker."""
        self._pace = np.repeat(self.pace[by_pace], ROLES)
        self._room = np.maximum(self.caps[by_pace] - 1, 0).ravel()
        self._unable = (self.caps[by_pace] < 1).ravel().astype(np.int64)
        """Of each node in each role: 1 if it cannot take even one layer."""

    def ticks(self, orders: Ints) -> Floats:
        """`orders` [lines, nodes], two nodes or more: ticks a token; NEVER and more for each bad
        edge and each layer that finds no place."""
        nodes = orders.shape[1]
        keys = self._place[orders] * ROLES
        keys[:, 0] += FIRST
        keys[:, -1] += LAST
        keys.sort(axis=1)
        # Everybody takes one layer, and the quickest take the rest.
        rest = self.layers - nodes
        pace = self._pace[keys]
        filled = np.minimum(np.cumsum(self._room[keys], axis=1), rest)
        stages = (filled[:, :-1] * (pace[:, :-1] - pace[:, 1:])).sum(axis=1)
        stages += filled[:, -1] * pace[:, -1] + pace.sum(axis=1) + self.head[orders[:, -1]]
        missing = rest - filled[:, -1] + self._unable[keys].sum(axis=1)
        total: Floats = stages + self.hops(orders) + missing * float(NEVER)
        return total

    def hops(self, orders: Ints) -> Floats:
        onward = self.hop[orders[:, :-1], orders[:, 1:]].sum(axis=1)
        total: Floats = onward + self.back[orders[:, -1], orders[:, 0]]
        return total


def _paces(table: Table) -> Floats:
    """Ticks per layer, as if whatever is loaded somewhere could be used."""
    pace: Floats = table.time[:, -1] / table.layers
    for node, start, stop in table.held:
        ticks = table.held_time[node, stop] - table.held_time[node, start]
        pace[node] = ticks / (stop - start)
    return pace


def _caps(table: Table, pace: Floats, limit: Limit) -> Floats:
    """In the middle as many layers of average size as fit, or one if there is one that fits."""
    room = np.minimum(table.room, limit.bytes) - table.fixed
    # A hair more, so that a whole number does not lose a layer to rounding.
    quick = np.floor(limit.ticks / np.maximum(pace, 1) + 1e-9)
    middle = np.minimum(room * table.layers // max(int(table.need[-1]), 1), quick)
    fits = np.diff(table.need) <= room[:, None]
    if limit.ticks < NEVER:
        fits &= np.diff(table.time, axis=1) <= limit.ticks
    caps = np.empty((table.count, ROLES))
    caps[:, MIDDLE] = np.maximum(middle, fits.any(axis=1))
    caps[:, FIRST] = first_stops(table, limit)
    caps[:, LAST] = table.layers - last_starts(table, limit)
    return np.clip(caps, 0, table.layers)
