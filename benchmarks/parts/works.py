"""The work that is given to every engine, and its figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from functools import partial

import msgspec

from benchmarks.processes import Failed, Worker
from benchmarks.statistics import interleaved
from benchmarks.text import Text
from benchmarks.work import Outcome, Work
from paceline.bench import quantile

PROMPT, NEW = 32, 65
LONG_PROMPT = 500
REST_S = 0.5
"""Before each piece of work: some systems' threads spin on for a while when theirs is done."""
WARM = 16
"""New tokens that warm a system, and its buffers, up."""


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
    turns: int = 1
    """So often, with other prompts each time, one after the other: what a stream costs may depend
    on what it says, and for its first moments on what others left in the caches."""

    def works(self, text: Text) -> list[Work]:
        prompts = text.prompts(self.turns * self.streams, self.prompt)
        return [Work(prompts[turn :: self.turns], self.new) for turn in range(self.turns)]

    def short(self, text: Text) -> list[Work]:
        return [Work(text.prompts(self.streams, self.prompt), min(self.new, WARM))]

    def tokens_per_s(self, outcome: Outcome) -> float:
        """Generated tokens after each stream's first, or prompt tokens where only that is asked."""
        if self.new == 1:
            return self.turns * self.streams * self.prompt / outcome.prefill_s
        return outcome.decoded / outcome.decode_s


KINDS: Mapping[str, Kind] = {
    "1 stream": Kind(1, PROMPT, NEW, turns=8),
    "8 streams": Kind(8, PROMPT, NEW),
    "32 streams": Kind(32, PROMPT, NEW),
    "prefill, 500": Kind(1, LONG_PROMPT, 1, turns=5),
}


Outcomes = dict[str, dict[str, list[Outcome]]]
"""By system and kind of work; one for each round."""


def run_kinds(
    workers: Mapping[str, Worker], text: Text, rounds: int
) -> tuple[Outcomes, dict[str, str]]:
    """Every kind of work by every system, warmed up, in interleaved rounds: the outcomes of those
    that never failed, and the others' reasons."""
    pairs = [(name, kind) for kind in KINDS for name in workers]

    def jobs(
        works: Mapping[str, list[Work]], but: Collection[str]
    ) -> dict[str, Callable[[], Outcome]]:
        return {
            f"{name}/{kind}": partial(_one_by_one, workers[name], works[kind])
            for name, kind in pairs
            if name not in but
        }

    short = {kind: one.short(text) for kind, one in KINDS.items()}
    _, cold = interleaved(1, jobs(short, ()), Failed)
    failed = {name.split("/")[0]: why for name, why in cold.items()}
    works = {kind: one.works(text) for kind, one in KINDS.items()}
    found, broken = interleaved(rounds, jobs(works, failed), Failed)
    failed |= {name.split("/")[0]: why for name, why in broken.items()}
    return {
        name: {kind: found[f"{name}/{kind}"] for kind in KINDS}
        for name in workers
        if name not in failed
    }, failed


def _one_by_one(worker: Worker, works: list[Work]) -> Outcome:
    time.sleep(REST_S)
    done = [worker.run(work) for work in works]
    return Outcome(
        prefill_s=sum(one.prefill_s for one in done),
        decode_s=sum(one.decode_s for one in done),
        decoded=sum(one.decoded for one in done),
        answers=[ids for one in done for ids in one.answers],
        gaps_s=[gap_s for one in done for gap_s in one.gaps_s],
    )


def gap(outcomes: list[Outcome], part: float) -> float:
    """A percentile of the seconds between tokens, over all rounds."""
    return quantile([gap for one in outcomes for gap in one.gaps_s], part)
