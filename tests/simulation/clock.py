"""Virtual time: nothing passes but from one thing that is due to the next."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

START = 100.0
"""Seconds. Not zero, so that nobody mistakes an unset time for the beginning."""

MOST_EVENTS = 5_000_000


class Clock:
    """What is due at the same moment happens in the order in which it was planned."""

    def __init__(self, now: float = START) -> None:
        self.now = now
        self._due: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._planned = 0

    def __call__(self) -> float:
        return self.now

    def at(self, when: float, what: Callable[..., object], *args: Any) -> None:
        self._planned += 1
        heapq.heappush(self._due, (when, self._planned, what, args))

    def after(self, seconds: float, what: Callable[..., object], *args: Any) -> None:
        self.at(self.now + seconds, what, *args)

    def run(self, until: float) -> None:
        """Lets everything happen that is due up to `until`; then it is that late."""
        due = self._due
        assert self._planned < MOST_EVENTS, "something plans itself again and again"
        while due and due[0][0] <= until:
            when, _, what, args = heapq.heappop(due)
            if when > self.now:
                self.now = when
            what(*args)
        self.now = max(self.now, until)
