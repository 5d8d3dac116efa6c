"""How long steps take, seen from the driver. Pure: times are given by the caller."""

from __future__ import annotations

from collections import deque

import msgspec

from paceline.types.step import Step


class Trip(msgspec.Struct, frozen=True):
    """A step that came back."""

    decode_rows: int
    """With those of guesses."""
    prompt_rows: int
    took_s: float
    """Of the line's time, which the steps before it had until they came back."""
    trip_s: float
    """From its start, whoever else was on the way."""


class Trips:
    """Steps on their way, oldest first: a line is FIFO."""

    def __init__(self) -> None:
        self._out: deque[tuple[Step, float]] = deque()
        self._returned_at = float("-inf")

    def left(self, step: Step, now: float) -> None:
        self._out.append((step, now))

    def returned(self, now: float) -> Trip:
        """The oldest step is back."""
        step, left_at = self._out.popleft()
        took_s = now - max(left_at, self._returned_at)
        self._returned_at = now
        decode_rows = sum(span.count for span in step.spans if span.count == 1 + len(span.guesses))
        return Trip(decode_rows, step.rows - decode_rows, took_s, now - left_at)
