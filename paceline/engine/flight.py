"""A step that is in the line, and what must come back for it."""

from __future__ import annotations

import msgspec

from paceline.types.errors import EngineError
from paceline.types.step import Sampled


class Flight(msgspec.Struct, frozen=True):
    number: int
    positions: dict[int, int]
    """For each slot it samples: the position of its token."""

    def verify(self, sampled: Sampled, vocab_size: int) -> None:
        """Raises EngineError unless this answers this step. A line is FIFO, so anything else
        means that its epoch is broken."""
        if sampled.number != self.number:
            raise EngineError(f"step {sampled.number} came back before step {self.number}")
        positions = {drawn.slot: drawn.position for drawn in sampled.tokens}
        if positions != self.positions or len(positions) != len(sampled.tokens):
            raise EngineError(
                f"step {self.number} came back with tokens for (slot, position) "
                f"{[(drawn.slot, drawn.position) for drawn in sampled.tokens]}, "
                f"not for {sorted(self.positions.items())}"
            )
        strange = [drawn.id for drawn in sampled.tokens if not 0 <= drawn.id < vocab_size]
        if strange:
            raise EngineError(f"step {self.number} came back with tokens {strange}: no such ids")
