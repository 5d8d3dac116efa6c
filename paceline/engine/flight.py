"""A step that is in the line, and what must come back for it."""

from __future__ import annotations

from operator import itemgetter

import msgspec

from paceline.types.errors import EngineError
from paceline.types.step import Sampled


class Flight(msgspec.Struct, frozen=True):
    number: int
    positions: dict[int, int]
    """For each slot it samples: the position of its first token."""
    guesses: dict[int, tuple[int, ...]]
    """For some of them: ids that its next tokens may have."""

    def verify(self, sampled: Sampled, vocab_size: int) -> None:
        """Raises EngineError unless this answers this step. A line is FIFO, so anything else
        means that its epoch is broken."""
        if sampled.number != self.number:
            raise EngineError(f"step {sampled.number} came back before step {self.number}")
        drawn = [(token.slot, token.position) for token in sampled.tokens]
        if sorted(drawn, key=itemgetter(0)) != self._asked(sampled):
            raise EngineError(
                f"step {self.number} came back with tokens for (slot, position) {drawn}, "
                f"not for {sorted(self.positions.items())} with guesses {self.guesses}"
            )
        strange = [drawn.id for drawn in sampled.tokens if not 0 <= drawn.id < vocab_size]
        if strange:
            raise EngineError(f"step {self.number} came back with tokens {strange}: no such ids")

    def _asked(self, sampled: Sampled) -> list[tuple[int, int]]:
        """(slot, position) of one token for each slot, and of another behind each right guess, by
        slot."""
        ids = {(token.slot, token.position): token.id for token in sampled.tokens}
        asked: list[tuple[int, int]] = []
        for slot, position in sorted(self.positions.items()):
            asked.append((slot, position))
            for guess in self.guesses.get(slot, ()):
                if ids.get(asked[-1]) != guess:
                    break
                asked.append((slot, asked[-1][1] + 1))
        return asked
