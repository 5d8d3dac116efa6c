"""The last step of the heuristic: small changes to a line, each with its exact cut, so that layers
of uneven size and what is loaded already count as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from math import factorial

import numpy as np

from paceline.planner.climb import SHORT, variations
from paceline.planner.cut import cheapest_cut
from paceline.planner.goal import best_cut, limit, load
from paceline.planner.relaxed import Relaxed
from paceline.planner.steps import Steps, fewest_ticks
from paceline.planner.table import NEVER, Ints, Line
from paceline.planner.windows import Windows, make_windows
from paceline.types.states import Objective

ROUNDS = 8
"""At most; one for lines longer than SHORT."""
WORK = 600
"""Nodes in all orders that are cut in a round, at each length."""
FEW = 5
"""Where layers are uneven, lines of up to so many nodes are tried in every order;"""
REORDERED = 6000
"""those with one node exchanged too, if there are no more than these."""


class Polish:
    """Small changes to lines of `least` to `most` nodes. `windows` without a limit; `alike`: the
    layers are, and nothing is loaded, so that the order of nodes matters little."""

    def __init__(
        self, windows: Windows, objective: Objective, least: int, most: int, alike: bool
    ) -> None:
        self._windows = windows
        self._objective = objective
        self._least, self._most = least, most
        self._alike = alike

    def polished(self, order: Sequence[int]) -> Line | None:
        """The best line that is reached from an order that need not be possible itself."""
        line = best_cut(self._windows, self._objective, order)
        for _ in range(ROUNDS if len(order) <= SHORT else 1):
            better = self._better(line, line.nodes if line else order)
            if better is None:
                break
            line = better
        return line

    def _better(self, line: Line | None, order: Sequence[int]) -> Line | None:
        windows, table = self._windows, self._windows.table
        now = NEVER if line is None else load(table, self._objective, line)
        if self._objective is Objective.LATENCY:
            quick = self._quicker(windows, order, now)
            return cheapest_cut(windows, quick) if quick else None
        lighter = windows if line is None else make_windows(table, limit(self._objective, now - 1))
        if light := self._quicker(lighter, order, NEVER):
            return best_cut(windows, self._objective, light)
        if line is None:
            return None
        as_light = make_windows(table, limit(self._objective, now))
        quick = self._quicker(as_light, order, table.latency(line))
        return cheapest_cut(as_light, quick) if quick else None

    def _quicker(self, windows: Windows, order: Sequence[int], ticks: int) -> list[int] | None:
        """The best small change within the windows, if it takes less than so many ticks."""
        steps, best = Steps(windows), None
        relaxed = Relaxed(windows.table, windows.limit)
        for orders in self._promising(relaxed, np.array(order)):
            found = fewest_ticks(steps, windows.table.hop, orders)
            at = int(found.argmin())
            if found[at] < ticks:
                ticks, best = int(found[at]), orders[at]
        return None if best is None else [int(node) for node in best]

    def _promising(self, relaxed: Relaxed, order: Ints) -> Iterator[Ints]:
        outside = np.flatnonzero(~np.isin(np.arange(len(relaxed.pace)), order))
        for orders in variations(order, outside, self._least, self._most):
            if not self._alike and orders.shape[1] == len(order) <= FEW:
                orders = _reordered(order, orders)
            few = max(WORK // orders.shape[1], 1)
            if len(orders) > few:
                orders = orders[np.argpartition(relaxed.ticks(orders), few)[:few]]
            yield orders


def _reordered(order: Ints, orders: Ints) -> Ints:
    """An order and its variations of the same length, with other orders of the same nodes."""
    sets = np.unique(np.sort(np.concatenate([order[None], orders]), axis=1), axis=0)
    if len(sets) * factorial(len(order)) <= REORDERED:
        return _permuted(sets)
    return np.concatenate([_permuted(order[None]), orders])


def _permuted(orders: Ints) -> Ints:
    """Every order of the nodes of every row."""
    every = np.array(list(permutations(range(orders.shape[1]))))
    permuted: Ints = orders[:, every].reshape(-1, orders.shape[1])
    return permuted
