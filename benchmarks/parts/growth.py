"""How Paceline's speed changes with the length of the context and the number of streams."""

from __future__ import annotations

from functools import partial

from benchmarks.contenders import LONGEST, default_model, paceline, started
from benchmarks.parts.works import Plan, gap
from benchmarks.processes import Failed
from benchmarks.report import Result, Table, failures, ms, rate
from benchmarks.statistics import figure, interleaved
from benchmarks.text import Text
from benchmarks.work import Work
from paceline.process.cpus import usable_cpus

NEW = 33
CONTEXTS = (256, 1024, 4096, LONGEST - NEW)
STREAMS = (1, 2, 4, 8, 16, 32, 64)
SHORT, LONG = 32, 4000
MIXED = 31
"""Short streams beside the long one."""


def measure(plan: Plan) -> Result:
    model = default_model()
    text = Text(model.checkpoint)
    (long,) = text.prompts(1, LONG)
    works = {
        **{f"1 stream, context {n}": Work(text.prompts(1, n), NEW) for n in CONTEXTS},
        **{f"{n} streams, context {SHORT}": Work(text.prompts(n, SHORT), NEW) for n in STREAMS},
        f"{MIXED} streams, context {SHORT}": Work(text.prompts(MIXED, SHORT), NEW),
        f"the same beside one of {LONG}": Work([*text.prompts(MIXED, SHORT), long], NEW),
    }
    with started([paceline(model, "int8", usable_cpus(), guesses=False)]) as (workers, failed):
        jobs = {
            what: partial(worker.run, work)
            for worker in workers.values()
            for what, work in works.items()
        }
        _, cold = interleaved(1, jobs, Failed)  # buffers are made, and pages touched, in this one
        warm = {what: job for what, job in jobs.items() if what not in cold}
        outcomes, broken = interleaved(max(1, plan.rounds // 2), warm, Failed)
    rows = []
    for what, found in outcomes.items():
        prefill = [works[what].prompt_tokens / one.prefill_s for one in found]
        decode = [one.decoded / one.decode_s for one in found]
        rows.append(
            (
                what,
                rate(figure(prefill)),
                rate(figure(decode)),
                ms(gap(found, 0.5)),
                ms(gap(found, 0.99)),
            )
        )
    table = Table(
        title="Paceline int8: growth with context and streams",
        columns=("", "prefill, tok/s", "decode, tok/s", "between tokens p50", "p99"),
        rows=tuple(rows),
        notes=failures(failed | cold | broken),
    )
    data = {
        what: [
            {"prefill_s": one.prefill_s, "decode_s": one.decode_s, "decoded": one.decoded}
            for one in found
        ]
        for what, found in outcomes.items()
    }
    return Result(tables=(table,), data=data)
