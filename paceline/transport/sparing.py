"""Say the same thing at most once in a while, and not too many things."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

REPEAT_S = 5.0
MAX_AT_ONCE = 32
"""Different things in that time: who makes up ever new ones fills no log."""


class Sparing:
    """Whether something about `key` may be logged now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: set[Hashable] = set()
        self._since = float("-inf")

    def may_say(self, key: Hashable) -> bool:
        now = self._clock()
        if now - self._since >= REPEAT_S:
            self._since = now
            self._said.clear()
        if key in self._said or len(self._said) >= MAX_AT_ONCE:
            return False
        self._said.add(key)
        return True
