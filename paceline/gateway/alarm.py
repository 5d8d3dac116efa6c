"""A limit on each of many short waits, with few timers."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class Alarm:
    """Rings when a wait has taken `limit_s`. For one wait at a time.

    A stream waits twice for each token, for it and for its client to take it, and a timer for each
    wait costs more than the token's JSON. Here a timer outlives the waits that were short, and is
    set anew only when it was early. It keeps nobody in memory.
    """

    def __init__(self, limit_s: float, ring: Callable[[], None]) -> None:
        self._limit_s = limit_s
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._is_set = False

    async def over(self, wait: Awaitable[T]) -> T:
        """What the wait gives."""
        self._since = self._loop.time()
        if not self._is_set:
            self._set(self._limit_s)
        try:
            return await wait
        finally:
            self._since = None

    def _set(self, seconds: float) -> None:
        self._is_set = True
        self._loop.call_later(seconds, _look, weakref.ref(self))

    def look(self) -> None:
        """The timer's time has come."""
        self._is_set = False
        if self._since is None:
            return
        left = self._limit_s - (self._loop.time() - self._since)
        if left <= 0:
            self._ring()
        else:
            self._set(left)


def _look(alarm: weakref.ref[Alarm]) -> None:
    if (there := alarm()) is not None:
        there.look()
