"""Guesses at a stream's next ids: what followed when its last two ids last stood side by side, or,
where they never did and rows abound, what last followed its last one.

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
FIRST_GUESSES = {2: 2, 1: 1}
"""By how many ids they rest on. Behind one id a guess is right once in six times or so, which pays
for its row while one or two streams decode."""

MOST_MISSES = 12
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
        self._known = 0
        """Ids up to there have been looked at."""
        self._contexts = tuple(_Context(*each) for each in FIRST_GUESSES.items())
        self._asked = self._contexts[0]

    def guess(self, most: int) -> tuple[int, ...]:
        """At most so many ids that may come next."""
        self._look()
        for context in self._contexts if most >= MOST_GUESSES else self._contexts[:1]:
            if guesses := context.guess(self._ids, most):
                self._asked = context
                return guesses
        return ()

    def judge(self, guessed: int, right: int) -> None:
        """So many of the last guesses were right: after right ones more are made next time."""
        self._asked.judge(guessed, right, len(self._ids))

    def _look(self) -> None:
        ids = self._ids
        for place in range(max(self._known, len(ids) - MOST_IDS), len(ids)):
            for context in self._contexts:
                context.look(ids, place)
        self._known = len(ids)


class _Context:
    """What came behind so many ids side by side."""

    def __init__(self, length: int, first_guesses: int) -> None:
        self._length = length
        self._behind: dict[tuple[int, ...], int] = {}
        """By these ids: where the id stands that came behind them last."""
        self._trust = first_guesses
        self._misses = 0
        self._rests_until = 0

    def look(self, ids: Sequence[int], place: int) -> None:
        if place >= self._length:
            self._behind[tuple(ids[place - self._length : place])] = place

    def guess(self, ids: Sequence[int], most: int) -> tuple[int, ...]:
        """A guess that runs past the end goes on with itself: what repeats goes on repeating."""
        behind = self._behind.get(tuple(ids[-self._length :]))
        if behind is None or len(ids) < self._rests_until:
            return ()
        period = len(ids) - behind
        guesses: list[int] = []
        for i in range(min(most, self._trust)):
            guesses.append(ids[behind + i] if i < period else guesses[i - period])
        return tuple(guesses)

    def judge(self, guessed: int, right: int, length: int) -> None:
        self._trust = min(2 * right + 1, MOST_GUESSES) if right == guessed else max(right, 1)
        self._misses = 0 if right else self._misses + 1
        if self._misses >= MOST_MISSES:
            pause = min(1 << (self._misses - MOST_MISSES), LONGEST_PAUSE)
            self._rests_until = length + pause
