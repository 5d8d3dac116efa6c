"""How fast streams come to their end, and so when who is turned away should come again. Pure."""

from __future__ import annotations

import math

LONGEST_S = 60
"""Nobody is sent away for longer: what is measured now says little of then."""

UNMEASURED_S = 5
FADES = 0.1
"""Weight of a new pause between two ends."""


class Turnover:
    """Times are monotonic seconds, given by the caller."""

    def __init__(self) -> None:
        self._pause_s: float | None = None
        self._ended_at: float | None = None

    def began(self, now: float) -> None:
        """There is work again: who was idle was not slow."""
        self._ended_at = now

    def ended(self, now: float) -> None:
        """A stream came to its end."""
        if self._ended_at is not None:
            pause_s = now - self._ended_at
            known = pause_s if self._pause_s is None else self._pause_s
            self._pause_s = known + FADES * (pause_s - known)
        self._ended_at = now

    def wait_s(self, places: int, now: float) -> int:
        """Whole seconds, 1 … LONGEST_S, in which so many streams may be expected to end."""
        if self._pause_s is None or self._ended_at is None:
            return UNMEASURED_S
        # The last pause is not over yet, and may be a long one.
        pause_s = max(self._pause_s, FADES * (now - self._ended_at))
        return min(max(math.ceil(places * pause_s), 1), LONGEST_S)
