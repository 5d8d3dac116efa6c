"""More runners against more threads: two of one thread each, one of two, one of one.

Over HTTP, as every line is used; the gateway and the clients are in all of them alike. The line is
cut for throughput, which is what it is for.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from benchmarks import servers
from benchmarks.contenders import default_model
from benchmarks.parts.http import Seen, over_http, start_all, warm_up
from benchmarks.parts.works import NEW, PROMPT, Plan
from benchmarks.processes import Failed
from benchmarks.report import Result, Table, failures, rate, times
from benchmarks.statistics import figure, interleaved, ratio
from benchmarks.text import Text
from benchmarks.work import Work
from paceline.process.cpus import usable_cpus
from paceline.types.states import Objective

TWO, WIDE, NARROW = "two runners × half", "one runner × all", "one runner × half"
SETS = {
    "32 streams": (32, TWO, WIDE),
    "1 stream": (1, TWO, NARROW),
}
"""Streams, and which is divided by which."""


def measure(plan: Plan) -> Result:
    text = Text(default_model().checkpoint)
    threads = usable_cpus()
    works = {kind: Work(text.prompts(count, PROMPT), NEW) for kind, (count, *_) in SETS.items()}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        chosen = [
            servers.paceline(2, 2, "int8", TWO, objective=Objective.THROUGHPUT),
            servers.paceline(1, 1, "int8", WIDE),
            servers.paceline(2, 1, "int8", NARROW),
        ]
        serving = start_all(stack, chosen, failed)
        jobs: dict[str, Callable[[], Seen]] = {
            f"{name}, {kind}": partial(over_http, serving[name], works[kind])
            for kind, (_, *names) in SETS.items()
            for name in names
            if name in serving
        }
        for work in works.values():
            warm_up(serving, work)
        seen, broken = interleaved(plan.rounds, jobs, Failed)
    rates = {name: [one.tokens_per_s for one in each] for name, each in seen.items()}
    table = Table(
        title=f"Lines of runners on {threads} processors ({max(1, threads // 2)} are half)",
        columns=("", "tok/s", "against", "tok/s", "ratio"),
        rows=tuple(
            (
                f"{above}, {kind}",
                rate(figure(rates[f"{above}, {kind}"])),
                below,
                rate(figure(rates[f"{below}, {kind}"])),
                times(ratio(rates[f"{above}, {kind}"], rates[f"{below}, {kind}"])),
            )
            for kind, (_, above, below) in SETS.items()
            if f"{above}, {kind}" in rates and f"{below}, {kind}" in rates
        ),
        notes=failures(failed | broken),
    )
    return Result(tables=(table,), data={"tokens_per_s": rates, "failed": failed | broken})
