"""`python -m benchmarks [PART …]`: measure, print tables, and with --docs keep them in docs/."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable

import msgspec

from benchmarks import machine, report
from benchmarks.parts import (
    beside,
    delay,
    engine,
    growth,
    http,
    line,
    peers,
    planner,
    quality,
    recovery,
    scale,
)
from benchmarks.parts.works import Plan
from benchmarks.plot import draw
from benchmarks.report import Result

PARTS: dict[str, Callable[[Plan], Result]] = {
    "peers": peers.measure,
    "http": http.measure,
    "engine": engine.measure,
    "beside": beside.measure,
    "growth": growth.measure,
    "line": line.measure,
    "quality": quality.measure,
    "planner": planner.measure,
    "recovery": recovery.measure,
    "delay": delay.measure,
    "scale": scale.measure,
}
ROUNDS = 3


def main() -> None:
    given = _arguments()
    # So that an end from outside ends servers in order too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    described = machine.describe()
    plan = Plan(given.rounds, tuple(given.only))
    results: dict[str, Result] = {}
    for part in given.parts or PARTS:
        print(f"{part} …", file=sys.stderr, flush=True)
        results[part] = PARTS[part](plan)
        if not given.json:
            report.show(results[part].tables)
    if given.json:
        found = {part: result.data for part, result in results.items()}
        print(msgspec.json.encode({"machine": described, "parts": found}).decode())
    if given.docs:
        report.keep(results, described)
        if "peers" in results:
            draw(results["peers"].data)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of: {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="interleaved; medians are shown")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="SYSTEM", help="names, or their beginnings"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--docs", action="store_true", help="keep the results in docs/")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return given


if __name__ == "__main__":
    main()
