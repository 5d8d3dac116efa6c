"""A line over two machines that are far from each other: tokens per second by the way's delay.

The machines are namespaces of this one (see tests/support/hosts.py), with Ray underneath; what they
send each other is held back by a process between them. Needs root.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.contenders import default_model
from benchmarks.parts.http import Seen, over_http, warm_up
from benchmarks.parts.works import NEW, PROMPT, Plan
from benchmarks.processes import Failed
from benchmarks.report import Result, Table, failures, rate, times
from benchmarks.servers import KV_TOKENS, Serving
from benchmarks.statistics import figure, interleaved, ratio
from benchmarks.text import Text
from benchmarks.wires import Wires, why_no_wires
from benchmarks.work import Work
from paceline.bench import Target
from tests.support.cluster import MODEL
from tests.support.hosts import why_no_hosts
from tests.support.machines import Fleet, fleet

DELAYS_MS = (0, 1, 5, 20)
"""One way, added to what the machine itself takes."""
STREAMS = (1, 8, 32)
SETTLE_S = 1.0
"""For what is on its way when a delay changes."""
MACHINES = 2


def measure(plan: Plan) -> Result:
    if why := why_no_hosts() or why_no_wires():
        return _result({}, {"all of it": why})
    text = Text(default_model().checkpoint)
    works = {count: Work(text.prompts(count, PROMPT), NEW) for count in STREAMS}
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="paceline-")))
        wires = stack.enter_context(Wires(MACHINES))
        cluster = stack.enter_context(fleet(base, wires, MACHINES))
        serving = _serving(cluster)
        for work in works.values():
            warm_up({"": serving}, work)
        jobs: dict[str, Callable[[], Seen]] = {
            _job(count, delay): partial(_delayed, wires, delay, serving, works[count])
            for delay, count in itertools.product(DELAYS_MS, STREAMS)
        }
        seen, failed = interleaved(plan.rounds, jobs, Failed)
    return _result({job: [one.tokens_per_s for one in each] for job, each in seen.items()}, failed)


def _serving(cluster: Fleet) -> Serving:
    name = cluster.create(min_nodes=MACHINES, max_nodes=MACHINES, dtype="int8", kv_tokens=KV_TOKENS)
    cluster.ready(name)
    (gateway,) = cluster.head.host.processes("paceline.gateway")
    return Serving(Target(cluster.api.url, cluster.api.api_key), MODEL, gateway.pid)


def _delayed(wires: Wires, delay_ms: float, serving: Serving, work: Work) -> Seen:
    wires.delay(delay_ms / 1000)
    time.sleep(SETTLE_S)
    try:
        return over_http(serving, work)
    finally:
        wires.delay(0)


def _job(streams: int, delay_ms: float) -> str:
    return f"{streams} streams, {delay_ms:g} ms"


def _result(rates: dict[str, list[float]], failed: dict[str, str]) -> Result:
    def cell(streams: int, delay: float) -> str:
        job, near = _job(streams, delay), _job(streams, 0)
        if job not in rates or near not in rates:
            return "–"
        return f"{rate(figure(rates[job]))}, {times(ratio(rates[job], rates[near]))}"

    table = Table(
        title="A line of two machines: tokens/s by the delay of each way, and against none",
        columns=("delay added", *(f"{streams} streams" for streams in STREAMS)),
        rows=tuple(
            (f"{delay} ms", *(cell(streams, delay) for streams in STREAMS)) for delay in DELAYS_MS
        ),
        notes=failures(failed),
    )
    return Result(tables=(table,), data={"tokens_per_s": rates, "failed": failed})
