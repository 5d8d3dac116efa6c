"""Many schedules, on several processors, and what they come to."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import msgspec

from tests.simulation.schedule import Outcome, Schedule
from tests.simulation.trace import quietly, trace

CHUNK = 50
LAST_EVENTS = 60
MOST_TRACES = 3
"""Of failures that are told with their events; the others by their reason."""

Outcomes = list[Outcome]


class Totals(msgspec.Struct, kw_only=True):
    schedules: int = 0
    virtual_s: float = 0.0
    took_s: float = 0.0
    longest_to_peace_s: float = 0.0
    injected: Counter[str] = msgspec.field(default_factory=Counter)
    failures: list[Outcome] = msgspec.field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.schedules += 1
        self.virtual_s += outcome.seconds
        self.longest_to_peace_s = max(self.longest_to_peace_s, outcome.settled_s)
        self.injected += outcome.injected
        if outcome.failure:
            self.failures.append(outcome)

    def __str__(self) -> str:
        faults = ", ".join(f"{kind} {count}" for kind, count in self.injected.most_common())
        return (
            f"{self.schedules} schedules in {self.took_s:.1f} s: {len(self.failures)} failed, "
            f"{self.virtual_s / 3600:.1f} virtual hours, {self.injected.total()} faults, peace "
            f"after at most {self.longest_to_peace_s:.0f} s\n{faults}"
        )


def run(
    seeds: Sequence[int], processes: int = 1, tell: Callable[[str], object] = lambda said: None
) -> Totals:
    """`tell` hears of progress now and then, and of each failure at once."""
    totals, began = Totals(), time.perf_counter()
    for outcomes in _in_chunks(seeds, processes):
        for outcome in outcomes:
            totals.add(outcome)
            if outcome.failure:
                tell(f"seed {outcome.seed}: {outcome.failure}")
        totals.took_s = time.perf_counter() - began
        tell(str(totals).partition("\n")[0])
    return totals


def told(totals: Totals) -> str:
    """The failures, the first of them with their last events and how to replay them."""
    said = [f"seed {outcome.seed}: {outcome.failure}" for outcome in totals.failures]
    for outcome in totals.failures[:MOST_TRACES]:
        said += ["", *_last_events(outcome.seed)]
        said += [f"replay: python -m tests.simulation --seed {outcome.seed}"]
    return "\n".join(said)


def _last_events(seed: int) -> list[str]:
    schedule = Schedule(seed)
    with quietly():
        schedule.run()
    return trace(schedule)[-LAST_EVENTS:]


def _in_chunks(seeds: Sequence[int], processes: int) -> Iterator[Outcomes]:
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    if processes == 1:
        yield from map(_run_chunk, chunks)
        return
    # Not forked: whoever calls this may have threads.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_run_chunk, chunks)


def _run_chunk(seeds: Sequence[int]) -> Outcomes:
    with quietly():
        return [Schedule(seed).run() for seed in seeds]
