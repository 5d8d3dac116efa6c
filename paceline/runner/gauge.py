"""How far work in several stages is, told so that it only ever goes forward, and how fast."""

from __future__ import annotations

from collections import deque

LATE_S = 5.0
"""The rate is of the last so many seconds."""
KEPT = 0.1
"""Of what is left, each stage leaves so much to those that may follow: nobody knows how many do."""


class Gauge:
    """Of one task. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.share = 0.0
        """0 … 1."""
        self._stage = ""
        self._base = 0.0
        self._done = 0
        self._samples: deque[tuple[float, int]] = deque()

    def read(self, stage: str, done: int, total: int, now: float) -> None:
        """A stage has come so far. One that starts again from less is another."""
        if stage != self._stage or done < self._done:
            self._stage, self._base = stage, self.share
            self._samples.clear()
        self._done = done
        if not self._samples or done > self._samples[-1][1]:
            self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[0][0] > LATE_S:
            self._samples.popleft()
        reached = done / total if total else 0.0
        self.share = max(self.share, self._base + (1 - self._base) * (1 - KEPT) * reached)

    def rate(self, now: float) -> float | None:
        """Of late, per second; None while nothing can be said."""
        if len(self._samples) < 2:
            return None
        since, done = self._samples[0]
        return (self._done - done) / max(now - since, 1e-3)


def words(done: int, total: int, rate: float | None, note: str) -> str:
    """`41 % of 163 MB at 112 MB/s, from node-1`; counts are bytes."""
    far = f"{100 * done // total} % of {total / 1e6:.0f} MB" if total else f"{done / 1e6:.0f} MB"
    pace = f" at {rate / 1e6:.1f} MB/s" if rate is not None else ""
    return f"{far}{pace}, {note}"
