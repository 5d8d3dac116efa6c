"""The last step of the heuristic: small changes to a line, each with its exact cut, so that layers
of uneven size and what is loaded already count as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np

from paceline.planner.climb import SHORT, variations
from paceline.planner.cut import cheapest_cut
from paceline.planner.goal import best_cut, limit, load
from paceline.planner.relaxed import Relaxed
from paceline.planner.steps import Steps, fewest_ticks
from paceline.planner.table import NEVER, Ints, Line
from paceline.planner.windows import Windows, make_windows
from paceline.types.states import Objective

FEW = 5
"""Up to so many nodes every order of them is tried."""
ROUNDS = 8
"""At most; one for lines longer than SHORT."""
WORK = 240
"""Nodes in all orders that are cut in a round, at each length."""


def polished(
    windows: Windows, objective: Objective, order: Sequence[int], least: int, most: int
) -> Line | None:
    """The best line of `least` to `most` nodes that small changes lead to, from an order that
    need not be possible itself. `windows` without a limit."""
    line = best_cut(windows, objective, order)
    for _ in range(ROUNDS if len(order) <= SHORT else 1):
        better = _better(windows, objective, line, line.nodes if line else order, least, most)
        if better is None:
            break
        line = better
    return line


def _better(
    windows: Windows,
    objective: Objective,
    line: Line | None,
    order: Sequence[int],
    least: int,
    most: int,
) -> Line | None:
    table = windows.table
    now = NEVER if line is None else load(table, objective, line)
    if objective is Objective.LATENCY:
        quick = _quicker(windows, order, now, least, most)
        return cheapest_cut(windows, quick) if quick else None
    lighter = windows if line is None else make_windows(table, limit(objective, now - 1))
    if light := _quicker(lighter, order, NEVER, least, most):
        return best_cut(windows, objective, light)
    if line is None:
        return None
    as_light = make_windows(table, limit(objective, now))
    quick = _quicker(as_light, order, table.latency(line), least, most)
    return cheapest_cut(as_light, quick) if quick else None


def _quicker(
    windows: Windows, order: Sequence[int], ticks: int, least: int, most: int
) -> list[int] | None:
    """The best small change within the windows, if it takes less than so many ticks."""
    steps, best = Steps(windows), None
    relaxed = Relaxed(windows.table, windows.limit)
    for orders in _promising(relaxed, np.array(order), least, most):
        found = fewest_ticks(steps, windows.table.hop, orders)
        at = int(found.argmin())
        if found[at] < ticks:
            ticks, best = int(found[at]), orders[at]
    return None if best is None else [int(node) for node in best]


def _promising(relaxed: Relaxed, order: Ints, least: int, most: int) -> Iterator[Ints]:
    outside = np.flatnonzero(~np.isin(np.arange(len(relaxed.pace)), order))
    if len(order) <= FEW:
        yield np.array(list(permutations(order.tolist())))
    for orders in variations(order, outside, least, most):
        few = max(WORK // orders.shape[1], 1)
        if len(orders) > few:
            orders = orders[np.argpartition(relaxed.ticks(orders), few)[:few]]
        yield orders
