"""The work that is given to every engine, and its figures."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from benchmarks.statistics import percentile
from benchmarks.text import Text
from benchmarks.work import Outcome, Work

PROMPT, NEW = 32, 65
LONG_PROMPT = 500
WARM = 4


class Plan(msgspec.Struct, frozen=True):
    """How a part is measured."""

    rounds: int
    only: tuple[str, ...] = ()
    """Beginnings of the names of the systems that take part; all do if it is empty."""

    def wants(self, name: str) -> bool:
        return not self.only or name.startswith(self.only)


class Kind(msgspec.Struct, frozen=True):
    """A kind of work: decoding is measured where more than one token is generated."""

    streams: int
    prompt: int
    new: int

    def work(self, text: Text) -> Work:
        return Work(text.prompts(self.streams, self.prompt), self.new)

    def tokens_per_s(self, outcome: Outcome) -> float:
        """Generated tokens after each stream's first, or prompt tokens where only that is asked."""
        if self.new == 1:
            return self.streams * self.prompt / outcome.prefill_s
        return outcome.decoded / outcome.decode_s


KINDS: Mapping[str, Kind] = {
    "1 stream": Kind(1, PROMPT, NEW),
    "8 streams": Kind(8, PROMPT, NEW),
    "32 streams": Kind(32, PROMPT, NEW),
    "prefill, 500": Kind(1, LONG_PROMPT, 1),
}


def gap(outcomes: list[Outcome], part: float) -> float:
    """A percentile of the seconds between tokens, over all rounds."""
    return percentile([gap for one in outcomes for gap in one.gaps_s], part)
