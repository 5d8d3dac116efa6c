"""A step that is in the line, and what must come back for it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

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
        ids = self._ids(sampled)
        right = all(self._is_asked(slot, ids.get(slot, [])) for slot in self.positions)
        if not right or ids.keys() != self.positions.keys():
            raise EngineError(
                f"step {self.number} came back with tokens for (slot, position) "
                f"{[(drawn.slot, drawn.position) for drawn in sampled.tokens]}, "
                f"not for {sorted(self.positions.items())} with guesses {self.guesses}"
            )
        strange = [drawn.id for drawn in sampled.tokens if not 0 <= drawn.id < vocab_size]
        if strange:
            raise EngineError(f"step {self.number} came back with tokens {strange}: no such ids")

    def _ids(self, sampled: Sampled) -> dict[int, list[int]]:
        """By slot, as long as they stand at the positions that they are to have."""
        found: dict[int, list[int]] = {}
        for drawn in sampled.tokens:
            ids = found.setdefault(drawn.slot, [])
            if drawn.position == self.positions.get(drawn.slot, -1) + len(ids):
                ids.append(drawn.id)
        return found if sum(map(len, found.values())) == len(sampled.tokens) else {}

    def _is_asked(self, slot: int, ids: list[int]) -> bool:
        """One token, and another behind each guess that is right."""
        return len(ids) == 1 + agreeing(self.guesses.get(slot, ()), ids)


def agreeing(guesses: Sequence[int], ids: Sequence[int]) -> int:
    """How many of the first guesses are right."""
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(guesses, ids, strict=False))
    )
