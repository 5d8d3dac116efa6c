"""How many prompt rows a step may take, by what steps were measured to take. Pure: no clock.

While streams decode, a step with prompt rows should take about STRETCH times what it takes without:
a long prompt slows the others' tokens by that and no more. Where more prompts wait than streams
decode, it may take as much longer: the few wait for the many. While nobody decodes nobody is
slowed, and chunks are as large as is good for the line.
"""

from __future__ import annotations

from paceline.types.model import PAGE_TOKENS

STRETCH = 2.5
"""How many times as long a step may take for the prompts in it. Three times are promised, and a
prompt that is read in half the time slows the others for half as long."""

STALE_STEPS = 16
"""After so many steps with prompts one goes without, to measure what decoding takes by now:
contexts grow, and what is not seen of that is billed to the prompts."""

LEAST_ROWS = 4
"""Prompts never starve: so many rows a step that has any takes, and a multiple of it. More would
break the pace of the others: behind a long context one prompt row takes as long as several that
decode."""

MOST_CROWD = 6.0
"""Prompts for each stream that decodes; more of them get no more rows."""

FIRST_ROWS = 64
"""What a step takes while nothing is known of prompt rows."""

FADES = 0.3
"""Weight of a new time of a step without prompts."""

SETTLED_ROWS = 256
"""So many prompt rows weigh as much as all that were measured before."""

CHUNKS_PER_RANK = 2
"""A prompt is cut so that every rank has some of it at work, and the line's ends idle little."""


class StepCost:
    """A step of d decode and p prompt rows takes decode_s(d) + p * row_s. Guesses are decode rows;
    and decode rows beyond those of steps that were measured without prompts cost what prompts' do,
    but no more than the others.
    """

    def __init__(self, most_rows: int, ranks: int = 1) -> None:
        """`most_rows`: of prompts in one step."""
        self._most_rows = most_rows
        self._ranks = ranks
        self._decode_s: dict[int, float] = {}
        """By decode rows."""
        self._row_s: float | None = None
        self._measured_rows = 0
        self._mixed_steps = 0
        """Of prompts beside those who decode, since one of the latter alone."""
        self._is_asking = False
        self._tried_rows = FIRST_ROWS // 2

    def wants_alone(self) -> bool:
        """Whether the next step of those who decode should be theirs alone. Said once, though it
        take long to come back."""
        if self._mixed_steps < STALE_STEPS:
            return False
        self._mixed_steps, self._is_asking = 0, True
        return True

    def prompt_rows(self, decode_rows: int, pending: int, crowd: float = 1.0) -> int:
        """For a step of `decode_rows`, or of none though others decode: then 1. `pending`: rows
        of all prompts that are left; `crowd`: prompts for each stream that decodes."""
        if decode_rows == 0:
            return self._undisturbed(pending)
        beside = self._beside(decode_rows)
        if beside is None:
            return self._most_rows
        # What is measured may be wrong, so it is believed step by step.
        rows = 2 * self._tried_rows
        if self._row_s:
            measured_s = self._decode_s[beside]
            unmeasured_s = (decode_rows - beside) * min(self._row_s, measured_s / beside)
            longer_s = (STRETCH - 1) * (measured_s + unmeasured_s)
            longer_s *= min(max(crowd, 1.0), MOST_CROWD)
            rows = int(min(rows, longer_s / self._row_s))
        return min(max(rows // LEAST_ROWS * LEAST_ROWS, LEAST_ROWS), self._most_rows)

    def measured(self, decode_rows: int, prompt_rows: int, took_s: float) -> None:
        """A step was measured."""
        if prompt_rows == 0:
            self._measured_alone(decode_rows, took_s)
            return
        self._mixed_steps += decode_rows > 0
        beside = self._beside(decode_rows)
        if beside is not None:
            # It would not have taken longer without its prompts. One lucky step is not believed:
            # nothing raises this again before a step without prompts.
            decode_s = self._decode_s[beside]
            decode_s += FADES * min(took_s - decode_s, 0.0)
            self._decode_s[beside] = decode_s
            took_s = max(took_s - decode_s, 0.0)
            self._tried_rows = max(prompt_rows, LEAST_ROWS)
        rows = prompt_rows + decode_rows - (beside or 0)
        row_s = took_s / rows
        # The mean over all rows at first: a few dear ones must not be believed for long.
        weight = rows / (rows + min(self._measured_rows, SETTLED_ROWS))
        self._measured_rows += rows
        known = self._row_s or 0.0
        self._row_s = known + weight * (row_s - known)

    def _measured_alone(self, decode_rows: int, took_s: float) -> None:
        known = self._decode_s.get(decode_rows, took_s)
        renewed = known + FADES * (took_s - known)
        if self._is_asking and known > 0:
            # What has become dearer for so many rows has for any: guesses make them vary.
            self._decode_s = {n: s * renewed / known for n, s in self._decode_s.items()}
        self._mixed_steps, self._is_asking = 0, False
        self._decode_s[decode_rows] = renewed

    def _beside(self, decode_rows: int) -> int | None:
        """The most decode rows, of those measured, that are no more than these."""
        return max((rows for rows in self._decode_s if 0 < rows <= decode_rows), default=None)

    def _undisturbed(self, pending: int) -> int:
        if self._ranks == 1:
            return self._most_rows
        pages = -(-pending // (CHUNKS_PER_RANK * self._ranks * PAGE_TOKENS))
        return min(max(pages, 1) * PAGE_TOKENS, self._most_rows)
