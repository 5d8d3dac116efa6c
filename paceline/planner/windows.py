"""Which layers each node may take: as many as its memory holds, and as a limit on the line's load
allows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from paceline.planner.table import NEVER, Ints, Table


@dataclass(frozen=True)
class Limit:
    """What no rank and no link of a line may exceed."""

    ticks: int = NEVER
    bytes: int = NEVER


UNLIMITED = Limit()


@dataclass(frozen=True)
class Windows:
    """A window that is empty starts at its stop or behind it."""

    table: Table
    """Without the links that the limit forbids."""
    limit: Limit
    lows: Ints
    """[nodes, layers + 1]: the first layer that a middle rank may start at to stop there."""
    first_stop: Ints
    last_start: Ints
    alone: NDArray[np.bool_]
    """[nodes]: whether it may take all."""

    def allowed(self, node: int, start: Ints | int, stop: Ints | int) -> NDArray[np.bool_]:
        """For exactly these layers, whether they have to be loaded or not; arrays broadcast."""
        table = self.table
        fits = table.bytes(start, stop) <= min(int(table.room[node]), self.limit.bytes)
        answer: NDArray[np.bool_] = fits & np.less(start, stop)
        if self.limit.ticks < NEVER:
            answer = answer & (table.ticks(node, start, stop) <= self.limit.ticks)
        return answer

    @cached_property
    def held(self) -> tuple[tuple[int, int, int], ...]:
        """Shards that need no loading, where they are allowed at all."""
        return tuple(part for part in self.table.held if self.allowed(*part))

    @cached_property
    def most_bytes(self) -> Ints:
        """[nodes]: of layers, that a node may take at most, whatever its role."""
        need, layers = self.table.need, self.table.layers
        middle = (need - need[np.minimum(self.lows, np.arange(layers + 1))]).max(axis=1)
        last = need[-1] - need[self.last_start]
        most = np.maximum(middle, np.maximum(need[self.first_stop], last))
        for node, start, stop in self.held:
            most[node] = max(most[node], need[stop] - need[start])
        found: Ints = np.where(self.alone, need[-1], most)
        return found

    @cached_property
    def usable(self) -> Ints:
        """Nodes that may take anything."""
        return np.flatnonzero(self.most_bytes > 0)


def make_windows(table: Table, limit: Limit = UNLIMITED) -> Windows:
    need = table.need
    room = np.minimum(table.room, limit.bytes) - table.fixed
    lows = np.searchsorted(need, need[None, :] - room[:, None], side="left").astype(np.int64)
    lows[room < 0] = table.layers
    alone = table.first_extra + table.last_extra - table.shared + need[-1] <= room
    if limit.ticks < NEVER:
        for node, time in enumerate(table.time):
            slow = np.searchsorted(time, time - limit.ticks, side="left")
            lows[node] = np.maximum(lows[node], slow)
        alone &= table.whole_ticks <= limit.ticks
        table = replace(table, hop=np.where(table.carry > limit.ticks, NEVER, table.hop))
    return Windows(
        table=table,
        limit=limit,
        lows=lows,
        first_stop=first_stops(table, limit),
        last_start=last_starts(table, limit),
        alone=alone,
    )


def first_stops(table: Table, limit: Limit) -> Ints:
    """[nodes]: where a first rank of several stops at the latest; 0: it cannot be first."""
    room = np.minimum(table.room, limit.bytes) - table.fixed - table.first_extra
    fits = table.need <= room[:, None]
    if limit.ticks < NEVER:
        fits &= table.time <= limit.ticks
    stops: Ints = np.clip(fits.sum(axis=1) - 1, 0, table.layers - 1)
    return stops


def last_starts(table: Table, limit: Limit) -> Ints:
    """[nodes]: where the last of several starts at the earliest; `layers`: it cannot be last."""
    room = np.minimum(table.room, limit.bytes) - table.fixed - table.last_extra
    fits = table.need[-1] - table.need <= room[:, None]
    if limit.ticks < NEVER:
        fits &= table.time[:, -1:] - table.time + table.head[:, None] <= limit.ticks
    starts: Ints = np.clip(table.layers + 1 - fits.sum(axis=1), 1, table.layers)
    return starts
