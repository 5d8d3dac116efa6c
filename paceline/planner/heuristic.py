"""A good line among many nodes: local search over orders of nodes, from several beginnings, then
the exact cut of the best of them. For throughput and memory the least load that any nodes could
bear comes first, and then a quick line under that limit.

The nodes with the most room, in that order, are always among those that are cut: the result is
never worse than layers in proportion to memory on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from paceline.planner.climb import SHORT, climb
from paceline.planner.goal import best_cut, limit, load
from paceline.planner.packing import fewest_nodes, packed_order
from paceline.planner.policy import Counts
from paceline.planner.polish import Polish
from paceline.planner.relaxed import MIDDLE, Relaxed
from paceline.planner.table import NEVER, Ints, Line, Table
from paceline.planner.windows import UNLIMITED, make_windows
from paceline.types.states import Objective

CANDIDATES = 32
"""Nodes looked at for each of their virtues: room, speed, nearness to a quick one."""
HUBS = 8
WORK = 40_000
LONG_WORK = 100_000
"""Nodes in all orders that one search looks at, if lines are longer than SHORT: it decides how many
beginnings are followed."""
FINALISTS = 4
"""Of what they lead to so many are cut; of lines longer than SHORT one."""
PEAKS = (1.0, 1.02, 1.1, 1.3, 2.0, 4.0, float("inf"))
"""Loads that are tried, in multiples of the least that could be borne if layers were alike and
edges did not matter."""
BISECTIONS = 16


def good_line(table: Table, objective: Objective, counts: Counts) -> Line | None:
    """As `exact_line`; may miss a line that is only a little better, or one that holds layers of
    very uneven size, or avoids many bad edges, with nothing to spare."""
    alone = _alone(table) if counts.least == 1 else []
    ceiling = min(counts.ceiling, table.count)
    if ceiling < max(counts.least, 2) or (alone and counts.most == 1):
        return _best(table, objective, alone)
    fewest = fewest_nodes(Relaxed(table), counts.least, ceiling) or max(counts.least, 2)
    counts = Counts(fewest, max(fewest, min(counts.most, ceiling)), ceiling)
    peak = _least_peak(table, objective, counts)
    several = counts.least if objective is Objective.LATENCY else counts.most
    nodes = _candidates(table, Relaxed(table, limit(objective, peak)), several)
    found = _Search(table.take(nodes), objective, peak).run(counts)
    line = found and Line(tuple(int(nodes[node]) for node in found.nodes), found.stops)
    return _best(table, objective, [*alone, *([line] if line else [])])


def _best(table: Table, objective: Objective, lines: Sequence[Line]) -> Line | None:
    return min(
        lines,
        key=lambda line: (load(table, objective, line), table.latency(line)),
        default=None,
    )


def _alone(table: Table) -> list[Line]:
    able = np.flatnonzero(make_windows(table).alone)
    return [Line((int(node),), (table.layers,)) for node in able]


def _least_peak(table: Table, objective: Objective, counts: Counts) -> int:
    """The least load that the best nodes could bear, if layers were alike and edges did not
    matter; NEVER for latency, and where nothing fits."""
    if objective is Objective.LATENCY:
        return NEVER
    most = table.time[:, -1] + table.head if objective is Objective.THROUGHPUT else table.room
    low, high = 0, int(most.max())
    for _ in range(BISECTIONS):
        middle = (low + high) // 2
        under = Relaxed(table, limit(objective, middle))
        if fewest_nodes(under, counts.least, counts.most) is None:
            low = middle
        else:
            high = middle
    return high


def _candidates(table: Table, relaxed: Relaxed, several: int) -> Ints:
    """The nodes worth looking at for lines of `several` nodes and more, where there are many."""
    if table.count <= 2 * CANDIDATES:
        return np.arange(table.count)
    room = relaxed.caps[:, MIDDLE]
    able = np.flatnonzero(room >= 1)
    roomy = able[np.argsort(-room[able], kind="stable")]
    quick = able[np.argsort(relaxed.pace[able], kind="stable")]
    hubs = np.concatenate([quick[:HUBS], roomy[:HUBS]])
    near = np.argsort(relaxed.hop[hubs], axis=1, kind="stable")[:, : CANDIDATES // HUBS]
    several = max(CANDIDATES, several + CANDIDATES // 2)
    held = np.array([node for node, _, _ in table.held], dtype=np.int64)
    chosen = np.zeros(table.count, dtype=bool)
    for nodes in (able[:several], roomy[:several], quick[:CANDIDATES], near.ravel(), held):
        chosen[nodes] = True
    return np.flatnonzero(chosen)


class _Search:
    def __init__(self, table: Table, objective: Objective, peak: int) -> None:
        self._windows = make_windows(table)
        self._table = table
        self._objective = objective
        self._peak = peak
        self._alike = not table.held and int(np.ptp(np.diff(table.need))) == 0
        self._roomiest = np.flatnonzero(Relaxed(table).caps[:, MIDDLE] >= 1)

    def run(self, counts: Counts) -> Line | None:
        """The best line found of two nodes or more, of as few beyond `most` as there must be."""
        ceiling = min(counts.ceiling, self._table.count)
        if counts.least > ceiling:
            return None
        counts = Counts(counts.least, min(counts.most, ceiling), ceiling)
        for least, most in _ranges(counts):
            for relaxed in self._limited():
                search = self._alike_lines if self._alike else self._uneven_lines
                lines = search(relaxed, least, most)
                if lines:
                    return self._best([*lines, *self._cut(self._roomy(least, most))])
        roomiest = self._roomiest[: counts.ceiling]
        return self._best(self._cut(_arranged(roomiest, counts.least)))

    def _limited(self) -> Iterator[Relaxed]:
        for factor in PEAKS if self._peak < NEVER else PEAKS[:1]:
            peak = int(min(self._peak * factor, NEVER))
            yield Relaxed(self._table, limit(self._objective, peak))

    def _alike_lines(self, relaxed: Relaxed, least: int, most: int) -> list[Line]:
        """What is best if layers are alike is best, but for the steps between PEAKS."""
        lines = self._cut(self._orders(relaxed, least, most))
        best = self._best(lines)
        if best and relaxed.limit != UNLIMITED and least <= SHORT:
            lines += self._polished([np.array(best.nodes)], least, most)
        return lines

    def _uneven_lines(self, relaxed: Relaxed, least: int, most: int) -> list[Line]:
        orders = self._orders(relaxed, least, most)
        if orders and least < most and relaxed.limit != UNLIMITED:
            orders += self._orders(relaxed, most, most)
        return self._polished(orders, least, most)

    def _orders(self, relaxed: Relaxed, least: int, most: int) -> list[Ints]:
        """The best that are reached, and possible if layers are alike."""

        def ticks(order: Ints) -> float:
            return float(relaxed.ticks(order[None])[0])

        work, reached = WORK if least <= SHORT else LONG_WORK, []
        for seed in sorted(self._seeds(relaxed, least, most), key=ticks):
            if work > 0:
                order, work = climb(relaxed, seed, least, most, work)
                reached.append(order)
        different = {tuple(order.tolist()): order for order in sorted(reached, key=ticks)}
        able = [order for order in different.values() if ticks(order) < NEVER]
        return able[: FINALISTS if least <= SHORT else 1]

    def _cut(self, orders: Iterable[Ints]) -> list[Line]:
        cuts = (best_cut(self._windows, self._objective, order.tolist()) for order in orders)
        return [line for line in cuts if line]

    def _polished(self, orders: Iterable[Ints], least: int, most: int) -> list[Line]:
        polish = Polish(self._windows, self._objective, least, most, self._alike)
        lines = (polish.polished(order.tolist()) for order in orders)
        return [line for line in lines if line]

    def _best(self, lines: Sequence[Line]) -> Line | None:
        return _best(self._table, self._objective, lines)

    def _roomy(self, least: int, most: int) -> Iterator[Ints]:
        for count in _spread(least, min(most, len(self._roomiest))):
            yield self._roomiest[:count]

    def _seeds(self, relaxed: Relaxed, least: int, most: int) -> Iterator[Ints]:
        """Orders to begin with: the roomiest nodes, those that pack best, and quick nodes with
        what is near them."""
        hubs = np.concatenate([np.argsort(relaxed.pace, kind="stable")[:HUBS], self._roomiest[:2]])
        yield from self._roomy(least, most)
        for count in _spread(least, most):
            packed = packed_order(relaxed, count)
            if packed is not None:
                yield packed
            share = np.minimum(relaxed.caps[:, MIDDLE], relaxed.layers / count)
            for hub in dict.fromkeys(hubs.tolist()):
                cost = relaxed.hop[hub] * share.mean() + relaxed.pace * share
                cost[hub] = -1
                yield np.argsort(cost, kind="stable")[:count]


def _ranges(counts: Counts) -> Iterator[tuple[int, int]]:
    """Counts of nodes to look among: the ones wished for, then further ones, in steps that
    double."""
    yield counts.least, counts.most
    count, step = counts.most + 1, 1
    while count <= counts.ceiling:
        yield count, count
        count, step = max(count + 1, min(count + step, counts.ceiling)), 2 * step


def _spread(least: int, most: int) -> list[int]:
    """Some counts from the least to the most."""
    few = {least, least + 1, least + 2, least + 3, (least + most) // 2, most}
    return sorted(count for count in few if least <= count <= most)


def _arranged(roomiest: Ints, least: int) -> Iterator[Ints]:
    """The ends of a line need the most room: both orders of the two roomiest at the ends."""
    if len(roomiest) >= max(least, 2):
        yield roomiest
        first, second, rest = roomiest[:1], roomiest[1:2], roomiest[2:]
        yield np.concatenate([first, rest, second])
        yield np.concatenate([second, rest, first])
