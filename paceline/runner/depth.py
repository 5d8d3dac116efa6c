"""How many batches a line is kept filled with. Pure.

A batch for each rank keeps all at work if handing over costs nothing. Where it does, a rank would
wait for the batch that comes back: so many are in flight as the slowest rank could compute while
one goes round. More would be smaller batches for nothing, as a rank reads its weights for each.
"""

from __future__ import annotations

MOST = 16
"""What a link always finds room for."""

FADES = 0.02
"""Weight of a new trip: handing over is a trait of machines and links, a late thread is not."""


class Depth:
    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._most = max(ranks, min(2 * ranks, MOST))
        self._filled_by = float(ranks)

    def measured(self, trip_s: float, slowest_s: float) -> None:
        """A step went round: in `trip_s`, had it nowhere waited for others, and its slowest rank
        computed for `slowest_s`."""
        if slowest_s > 0:
            self._filled_by += FADES * (trip_s / slowest_s - self._filled_by)

    @property
    def batches(self) -> int:
        return min(max(round(self._filled_by), self._ranks), self._most)
