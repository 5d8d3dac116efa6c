"""`python -m tests.simulation --seed N` replays a schedule with its trace; `--seeds A B` runs many
and says which failed."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation.schedule import Schedule
from tests.simulation.trace import quietly, trace


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 500), metavar=("FROM", "TO"))
    options = parser.parse_args()
    with quietly():
        if options.seed is not None:
            return _replay(options.seed)
        return _many(*options.seeds)


def _replay(seed: int) -> int:
    schedule = Schedule(seed)
    try:
        outcome = schedule.run()
    finally:
        print("\n".join(trace(schedule)))
    print(outcome.failure or f"held; at peace {outcome.settled_s:.1f} s after the last fault")
    return 1 if outcome.failure else 0


def _many(first: int, last: int) -> int:
    began, failed, hours = time.perf_counter(), 0, 0.0
    injected: Counter[str] = Counter()
    for seed in range(first, last):
        outcome = Schedule(seed).run()
        injected += outcome.injected
        hours += outcome.seconds / 3600
        if outcome.failure:
            failed += 1
            print(f"seed {seed}: {outcome.failure}", flush=True)
    took = time.perf_counter() - began
    print(f"{last - first} schedules, {failed} failed, {hours:.1f} virtual hours, {took:.1f} s")
    print(", ".join(f"{kind} {count}" for kind, count in injected.most_common()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
