"""Guesses at a stream's next ids: what followed when its last two ids last stood side by side, or,
where they never did and rows abound, what last followed its last one.

Prompt lookup decoding (A. Saxena, 2023): answers quote their prompts and themselves. A guess costs
a row beside others that read the weights anyway; the sampler decides what is drawn, so the tokens
are the same with and without.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST_GUESSES = 7
GUESS_ROWS = MOST_GUESSES + 1
"""Most rows of all that decode, with their guesses. The weights have to be read anyway: eight rows
take 1.5 times as long as one (docs/performance.md). With 16, four and eight streams of prose were
slower by some percent than with these or without guesses.
"""

FIRST_GUESSES = ((2, 2), (1, 1))
"""For so many ids side by side so many guesses. Behind one id a guess is right once in six times or
so, which pays for its row while one stream decodes."""

MOST_MISSES = 12
"""After so many guesses in a row of which the first was wrong, there are pauses between them, each
longer than the last. A wrong row is never quite free, the less so behind a long context."""
LONGEST_PAUSE = 16
"""Tokens."""

MOST_IDS = 8192
"""So many ids of a prompt are looked at, its last ones. 2 MiB, and milliseconds before the first
guess."""


class Lookup:
    """Over a growing list of ids."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = ids
        self._known = 0
        """Ids up to there have been looked at."""
        self._followers = tuple(_Followers(*each) for each in FIRST_GUESSES)
        self._guesser = self._followers[0]

    def guess(self, most: int, rows_abound: bool = False) -> tuple[int, ...]:
        """At most so many ids that may come next; where rows abound, also by the last id alone."""
        self._look()
        for followers in self._followers if rows_abound else self._followers[:1]:
            if followers.know(self._ids):
                self._guesser = followers
                return followers.guess(self._ids, most)
        return ()

    def judge(self, guessed: int, right: int) -> None:
        """So many of the last guesses were right: after right ones more are made next time."""
        self._guesser.judge(guessed, right, len(self._ids))

    def _look(self) -> None:
        ids = self._ids
        for place in range(max(self._known, len(ids) - MOST_IDS), len(ids)):
            for followers in self._followers:
                followers.look(ids, place)
        self._known = len(ids)


class _Followers:
    """Ids that came behind so many others side by side."""

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

    def know(self, ids: Sequence[int]) -> bool:
        """Whether the last of these ids have stood side by side before."""
        return tuple(ids[-self._length :]) in self._behind

    def guess(self, ids: Sequence[int], most: int) -> tuple[int, ...]:
        """A guess that runs past the end goes on with itself: what repeats goes on repeating."""
        if len(ids) < self._rests_until:
            return ()
        behind = self._behind[tuple(ids[-self._length :])]
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
