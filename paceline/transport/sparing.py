"""Say the same thing at most once in a while."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

REPEAT_S = 5.0
MAX_REMEMBERED = 256


class Sparing:
    """Whether something about `key` may be logged now; remembers a bounded number of keys."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: OrderedDict[Hashable, float] = OrderedDict()

    def may_say(self, key: Hashable) -> bool:
        now = self._clock()
        if now - self._said.get(key, float("-inf")) < REPEAT_S:
            return False
        self._said[key] = now
        self._said.move_to_end(key)
        if len(self._said) > MAX_REMEMBERED:
            self._said.popitem(last=False)
        return True
