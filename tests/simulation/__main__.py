"""`python -m tests.simulation --seed N` replays one schedule and shows its trace;
`--seeds FROM TO` runs many, and says what failed."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from tests.simulation.campaign import run, told
from tests.simulation.schedule import Schedule
from tests.simulation.trace import quietly, trace


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 500), metavar=("FROM", "TO"))
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    if options.seed is not None:
        return _replay(options.seed)
    totals = run(range(*options.seeds), options.processes, partial(print, flush=True))
    print(told(totals))
    print(totals)
    return 1 if totals.failures else 0


def _replay(seed: int) -> int:
    schedule = Schedule(seed)
    with quietly():
        outcome = schedule.run()
    print("\n".join(trace(schedule)))
    print(outcome.failure or f"held; at peace {outcome.settled_s:.1f} s after the last fault")
    return 1 if outcome.failure else 0


if __name__ == "__main__":
    sys.exit(main())
