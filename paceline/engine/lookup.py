"""Guesses at a stream's next ids: what followed when its last two ids last stood side by side.

Prompt lookup decoding (A. Saxena, 2023): answers quote their prompts and themselves. A guess costs
a row beside others that read the weights anyway; the sampler decides what is drawn, so the tokens
are the same with and without.
"""

from __future__ import annotations

from collections.abc import Sequence

GUESS_ROWS = 16
"""Most rows of all that decode, with their guesses. The weights have to be read anyway: eight rows
take 1.5 times as long as one (docs/performance.md). Many more are limited by arithmetic.
"""

MOST_GUESSES = 7
FIRST_GUESSES = 2

MOST_MISSES = 3
"""After so many guesses in a row of which the first was wrong, there are pauses between them, each
longer than the last. A wrong row is never quite free, the less so behind a long context."""
LONGEST_PAUSE = 16
"""Tokens."""

MOST_IDS = 8192
"""So many ids of a prompt are looked at, its last ones. 1 MiB, and milliseconds before the first
guess."""


class Lookup:
    """Over a growing list of ids."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = ids
        self._behind: dict[tuple[int, int], int] = {}
        """By two ids side by side: where the id stands that came behind them last."""
        self._known = 2
        """Ids up to there have been looked at."""
        self._trust = FIRST_GUESSES
        self._misses = 0
        self._rests_until = 0

    def guess(self, most: int) -> tuple[int, ...]:
        """At most so many ids that may come next. A guess that runs past the end goes on with
        itself: what repeats goes on repeating."""
        ids = self._ids
        self._look()
        behind = self._behind.get((ids[-2], ids[-1])) if len(ids) > 1 else None
        if behind is None or len(ids) < self._rests_until:
            return ()
        period = len(ids) - behind
        guesses: list[int] = []
        for i in range(min(most, self._trust)):
            guesses.append(ids[behind + i] if i < period else guesses[i - period])
        return tuple(guesses)

    def judge(self, guessed: int, right: int) -> None:
        """So many of the last guesses were right: after right ones more are made next time."""
        self._trust = min(2 * right + 1, MOST_GUESSES) if right == guessed else max(right, 1)
        self._misses = 0 if right else self._misses + 1
        if self._misses >= MOST_MISSES:
            pause = min(1 << (self._misses - MOST_MISSES), LONGEST_PAUSE)
            self._rests_until = len(self._ids) + pause

    def _look(self) -> None:
        ids = self._ids
        for place in range(max(self._known, len(ids) - MOST_IDS), len(ids)):
            self._behind[ids[place - 2], ids[place - 1]] = place
        self._known = max(self._known, len(ids))
