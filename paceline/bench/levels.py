"""What clients saw at one concurrency, as figures. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from paceline.bench.streaming import Timeline


class Round(msgspec.Struct, frozen=True):
    """Clients that started together."""

    timelines: tuple[Timeline, ...]

    @property
    def answered(self) -> list[Timeline]:
        return [one for one in self.timelines if not one.error]

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens over the time from the first request to the last token."""
        answered = self.answered
        if not answered:
            return 0.0
        began = min(one.sent_at for one in answered)
        return sum(one.tokens for one in answered) / (max(one.ended_at for one in answered) - began)


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds; NaN-free: zero where nothing was answered, and then errors say why."""

    concurrency: int
    requests: int
    errors: int
    first_error: str
    prompt_tokens: int
    """Of all answered requests together; so are `tokens`."""
    tokens: int
    tokens_per_s: float
    """The median over rounds."""
    first_p50_s: float
    """Time to the first token."""
    first_p99_s: float
    gap_p50_s: float
    """Between pieces of one stream, each of one token or more."""
    gap_p99_s: float


def level_of(concurrency: int, rounds: Sequence[Round]) -> Level:
    timelines = [one for each in rounds for one in each.timelines]
    answered = [one for one in timelines if not one.error]
    errors = [one.error for one in timelines if one.error]
    firsts = [one.first_s for one in answered]
    gaps = [gap for one in answered for gap in one.gaps_s]
    return Level(
        concurrency=concurrency,
        requests=len(timelines),
        errors=len(errors),
        first_error=errors[0] if errors else "",
        prompt_tokens=sum(one.prompt_tokens for one in answered),
        tokens=sum(one.tokens for one in answered),
        tokens_per_s=quantile([each.tokens_per_s for each in rounds], 0.5),
        first_p50_s=quantile(firsts, 0.5),
        first_p99_s=quantile(firsts, 0.99),
        gap_p50_s=quantile(gaps, 0.5),
        gap_p99_s=quantile(gaps, 0.99),
    )


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least `part` of them do not exceed; 0 for none."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]
