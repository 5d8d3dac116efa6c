"""Local search over orders of nodes, as if all layers were alike: from a beginning, the best small
changes again and again until none is better."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from paceline.planner.relaxed import Floats, Relaxed
from paceline.planner.table import Ints

SHORT = 12
"""Up to so many nodes every pair is exchanged and every piece turned round; in longer lines only
the ends are exchanged, and `shorten` sees to the rest."""

TOGETHER = 8
"""Changes of one round that are tried on top of each other."""


def climb(relaxed: Relaxed, order: Ints, least: int, most: int, work: int) -> tuple[Ints, int]:
    """The order that was reached, of `least` to `most` nodes, and how much work is left. `work` is
    counted in nodes of all orders that are looked at: the search ends when it is used up."""
    order, ticks = _valued(relaxed, shorten(order, relaxed.hop))
    every = np.arange(len(relaxed.pace))
    while work > 0:
        outside = every[~np.isin(every, order)]
        better, fewer = order, ticks
        for orders in variations(order, outside, least, most):
            work -= orders.size
            changed, now = _improved(relaxed, order, ticks, orders)
            if now < fewer:
                better, fewer = changed, now
        if fewer >= ticks:
            break
        order, ticks = _valued(relaxed, shorten(better, relaxed.hop))
    return order, work


def _valued(relaxed: Relaxed, order: Ints) -> tuple[Ints, float]:
    return order, float(relaxed.ticks(order[None])[0])


def _improved(relaxed: Relaxed, base: Ints, ticks: float, orders: Ints) -> tuple[Ints, float]:
    """The best of some variations of `base`, with others that go together with it."""
    every = relaxed.ticks(orders)
    best = int(every.argmin())
    if every[best] >= ticks or orders.shape[1] != len(base):
        return orders[best], float(every[best])
    order, ticks = orders[best], float(every[best])
    for variation in orders[np.argsort(every, kind="stable")[1:TOGETHER]]:
        changed = np.where(variation != base, variation, order)
        if len(set(changed.tolist())) == len(changed):
            changed, now = _valued(relaxed, changed)
            if now < ticks:
                order, ticks = changed, now
    return order, ticks


def variations(order: Ints, outside: Ints, least: int, most: int) -> Iterator[Ints]:
    """Orders of `least` to `most` nodes, two or more, [orders, nodes] of equal length at a time:
    one node exchanged for one of `outside`, two exchanged for each other, a piece turned round, a
    node more, a node less."""
    yield np.concatenate([_replaced(order, outside), _swapped(order), _turned(order)])
    if len(order) < most and len(outside):
        yield _inserted(order, outside)
    if len(order) > max(least, 2):
        yield _removed(order)


def shorten(order: Ints, hop: Floats) -> Ints:
    """Turns pieces between the ends round, for as long as that saves hops; every node can keep its
    layers."""
    order = order.copy()
    if len(order) < 4:
        return order
    later = np.triu(np.ones((len(order) - 2, len(order) - 2), dtype=bool), k=1)
    for _ in range(len(order)):
        before, at, after = order[:-2], order[1:-1], order[2:]
        old = hop[before, at][:, None] + hop[at, after]
        new = hop[before[:, None], at] + hop[at[:, None], after]
        saved = np.where(later, old - new, 0)
        i, j = np.unravel_index(int(saved.argmax()), saved.shape)
        if saved[i, j] <= 0:
            break
        order[i + 1 : j + 2] = order[i + 1 : j + 2][::-1].copy()
    return order


def _replaced(order: Ints, outside: Ints) -> Ints:
    count = len(order)
    made = np.tile(order, (count * len(outside), 1))
    made[np.arange(len(made)), np.repeat(np.arange(count), len(outside))] = np.tile(outside, count)
    return made


def _swapped(order: Ints) -> Ints:
    count = len(order)
    a, b = np.triu_indices(count, k=1)
    if count > SHORT:
        ends = (a == 0) | (b == count - 1)
        a, b = a[ends], b[ends]
    made = np.tile(order, (len(a), 1))
    rows = np.arange(len(a))
    made[rows, a], made[rows, b] = order[b], order[a]
    return made


def _turned(order: Ints) -> Ints:
    """Pieces of three nodes or more: of two, that is an exchange."""
    count = len(order)
    if count > SHORT:
        return np.empty((0, count), dtype=order.dtype)
    a, b = np.triu_indices(count, k=2)
    at = np.arange(count)
    inside = (at >= a[:, None]) & (at <= b[:, None])
    turned: Ints = order[np.where(inside, (a + b)[:, None] - at, at)]
    return turned


def _inserted(order: Ints, outside: Ints) -> Ints:
    count = len(order)
    made = np.empty((count + 1, len(outside), count + 1), dtype=order.dtype)
    for place in range(count + 1):
        made[place] = np.insert(order, place, 0)
        made[place, :, place] = outside
    return made.reshape(-1, count + 1)


def _removed(order: Ints) -> Ints:
    count = len(order)
    kept = ~np.eye(count, dtype=bool)
    removed: Ints = np.tile(order, (count, 1))[kept].reshape(count, count - 1)
    return removed
