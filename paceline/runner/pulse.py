"""Whether work goes on: whoever does it ticks at every layer, or call to C of some, and the I/O
thread looks.

How long work may go without a tick is not a constant: it follows from the ticks measured so far,
so that a large model on a slow machine is not called stuck, and a small one is soon.
"""

from __future__ import annotations

from collections.abc import Callable

from paceline.types.facts import WorkFacts

FACTOR = 20.0
"""Work is stuck when a tick takes so many times what the slowest of late took."""

SHORTEST_S = 5.0
"""No patience is shorter: other work on the machine, swapping and pauses are not hangs."""

LONGEST_S = 300.0

FETCH = "fetch"
"""The kind of work whose ticks tell nothing of the next one: a network has no pace of its own. It
is judged by its progress, and long before this patience ends."""

UNMEASURED_S = 60.0
"""Patience with a kind of work that has not ticked yet."""

FADES = 0.999
"""Each tick lets the slowest fade by this: one bad moment is not remembered for ever."""

STALL_S = 2.0
"""Looks come every beat. After a longer gap this process itself stood still, and its compute
thread with it: the time counts anew."""


class Pulse:
    """One thread calls `begin`, `tick` and `end`, another `look`. Each writes fields of its own,
    and a look that meets a half-written change is put right by the next one."""

    def __init__(self, clock: Callable[[], float], shortest_s: float = SHORTEST_S) -> None:
        self._clock = clock
        self._shortest_s = shortest_s
        self._unit_s: dict[str, float] = {}
        """By kind of work: seconds per row of the slowest tick, fading."""
        self._work: tuple[str, int] | None = None
        self._ticked_at = self._looked_at = self._awake_since = clock()

    def begin(self, work: str, rows: int = 1) -> None:
        """Work of a kind begins; its ticks take as long as they have `rows`."""
        self._ticked_at = self._clock()
        self._work = (work, max(rows, 1))

    def tick(self) -> None:
        """A layer, or several, are done."""
        if self._work is None:
            return
        work, rows = self._work
        now = self._clock()
        took_s, self._ticked_at = now - self._ticked_at, now
        self._unit_s[work] = max(took_s / rows, self._unit_s.get(work, 0.0) * FADES)

    def end(self) -> None:
        """The work is done; what came after the last layer counts as one more."""
        self.tick()
        self._work = None

    def look(self, queued_since: float | None = None) -> WorkFacts | None:
        """What is being worked on and for how long it has not ticked; None for nothing.

        `queued_since`: since when work waits to begin, if any does. Whoever is to do it may be
        stuck before it has begun.
        """
        now = self._clock()
        if now - self._looked_at > STALL_S:
            self._awake_since = now
        self._looked_at = now
        work, since = self._work, max(self._ticked_at, self._awake_since)
        if work is not None:
            patience_s = self._patience(work)
            return WorkFacts(work=work[0], silent_s=max(now - since, 0.0), patience_s=patience_s)
        if queued_since is None:
            return None
        silent_s = max(now - max(since, queued_since), 0.0)
        return WorkFacts(work="queue", silent_s=silent_s, patience_s=self._shortest_s)

    def _patience(self, work: tuple[str, int]) -> float:
        if work[0] == FETCH:
            return LONGEST_S
        unit_s = self._unit_s.get(work[0])
        if unit_s is None:
            return UNMEASURED_S
        return min(max(FACTOR * unit_s * work[1], self._shortest_s), LONGEST_S)
