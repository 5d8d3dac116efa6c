"""Guesses at a stream's next ids: what followed when its last two ids last stood side by side.

Prompt lookup decoding (A. Saxena, 2023): answers quote their prompts and themselves. A guess costs
a row beside others that read the weights anyway; the sampler decides what is drawn, so the tokens
are the same with and without.
"""

from __future__ import annotations

from collections.abc import Sequence

GUESS_ROWS = 16
"""Rows of a step in which guesses are made. So many cost little more than one: the weights have to
be read anyway. Many more are limited by arithmetic, and wrong ones would slow the others."""

MOST_GUESSES = 7
FIRST_GUESSES = 2


class Lookup:
    """Over a growing list of ids, of which each is looked at once."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = ids
        self._behind: dict[tuple[int, int], int] = {}
        """By two ids side by side: where the id stands that came behind them last."""
        self._known = 2
        self._trust = FIRST_GUESSES

    def guess(self, most: int) -> tuple[int, ...]:
        """At most so many ids that may come next. A guess that runs past the end goes on with
        itself: what repeats goes on repeating."""
        ids = self._ids
        for place in range(self._known, len(ids)):
            self._behind[ids[place - 2], ids[place - 1]] = place
        self._known = max(self._known, len(ids))
        behind = self._behind.get((ids[-2], ids[-1])) if len(ids) > 1 else None
        if behind is None:
            return ()
        period = len(ids) - behind
        guesses: list[int] = []
        for i in range(min(most, self._trust)):
            guesses.append(ids[behind + i] if i < period else guesses[i - period])
        return tuple(guesses)

    def judge(self, guessed: int, right: int) -> None:
        """So many of the last guesses were right: after right ones more are made next time."""
        if guessed:
            self._trust = min(2 * right + 1, MOST_GUESSES) if right == guessed else max(right, 1)
