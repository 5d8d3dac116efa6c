"""Paceline's engine alone: speed, waiting, memory, and how near the machine's limits it is."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.contenders import default_model, paceline, started
from benchmarks.machine import int8_products_per_s, read_bytes_per_s
from benchmarks.parts.works import KINDS, Plan, gap
from benchmarks.processes import Failed
from benchmarks.report import Result, Table, failures, mib, ms, percent, rate
from benchmarks.statistics import figure, interleaved
from benchmarks.text import Text
from benchmarks.work import Outcome
from paceline.process.cpus import usable_cpus

DTYPES = ("int8", "float32")
BYTES_EACH = {"int8": 1, "float32": 4}


def measure(plan: Plan) -> Result:
    model = default_model()
    text = Text(model.checkpoint)
    threads = usable_cpus()
    contenders = {dtype: paceline(model, dtype, threads) for dtype in DTYPES}
    names = {one.name: dtype for dtype, one in contenders.items()}
    with started(list(contenders.values())) as (workers, failed):
        facts = {name: worker.facts for name, worker in workers.items()}
        jobs = {
            f"{name}/{kind}": partial(worker.run, KINDS[kind].work(text))
            for kind in KINDS
            for name, worker in workers.items()
        }
        interleaved(1, jobs, Failed)
        outcomes, broken = interleaved(plan.rounds, jobs, Failed)
        memory = {name: worker.group.resident_bytes() for name, worker in workers.items()}
    sound = [n for n in workers if all(f"{n}/{kind}" in outcomes for kind in KINDS)]
    limits = {name: _limits(facts[name]["weight_bytes"], BYTES_EACH[names[name]]) for name in sound}
    rates = {name: _rates(name, outcomes) for name in sound}
    tables = (
        _speeds(sound, rates, memory, outcomes, failures(failed | broken)),
        _shares(sound, names, rates, limits, facts),
    )
    return Result(
        tables=tables,
        data={"rates": rates, "limits": limits, "facts": facts, "memory": memory},
    )


def _rates(name: str, outcomes: dict[str, list[Outcome]]) -> dict[str, list[float]]:
    return {
        kind: [KINDS[kind].tokens_per_s(one) for one in outcomes[f"{name}/{kind}"]]
        for kind in KINDS
    }


def _limits(weight_bytes: int, bytes_each: int) -> dict[str, float]:
    """Tokens per second at most: one stream reads all weights for each, and each multiplies them
    all."""
    return {
        "memory": read_bytes_per_s(weight_bytes) / weight_bytes,
        "int8": int8_products_per_s() / (weight_bytes / bytes_each),
    }


def _speeds(
    names: list[str],
    rates: dict[str, dict[str, list[float]]],
    memory: dict[str, int],
    outcomes: dict[str, list[Outcome]],
    notes: tuple[str, ...],
) -> Table:
    rows = []
    for name in names:
        one, many, long = (
            outcomes[f"{name}/{kind}"] for kind in ("1 stream", "32 streams", "prefill, 500")
        )
        rows.append((
            name,
            *(rate(figure(rates[name][kind])) for kind in KINDS),
            ms(figure([found.prefill_s for found in one]).median),
            ms(figure([found.prefill_s for found in long]).median),
            f"{ms(gap(one, 0.5))}, {ms(gap(one, 0.99))}",
            f"{ms(gap(many, 0.5))}, {ms(gap(many, 0.99))}",
            mib(memory[name]),
        ))  # fmt: skip
    return Table(
        title="Paceline's engine: tokens per second, and waiting",
        columns=(
            "dtype", *KINDS, "first token after 32", "after 500", "between p50, p99: 1 stream",
            "32 streams", "resident",
        ),
        rows=tuple(rows),
        notes=notes,
    )  # fmt: skip


def _shares(
    names: list[str],
    dtypes: dict[str, str],
    rates: dict[str, dict[str, list[float]]],
    limits: dict[str, dict[str, float]],
    facts: dict[str, Any],
) -> Table:
    rows = []
    for name in names:
        one, many = (figure(rates[name][kind]).median for kind in ("1 stream", "32 streams"))
        long = figure(rates[name]["prefill, 500"]).median
        arithmetic = limits[name]["int8"]
        int8 = dtypes[name] == "int8"
        rows.append((
            name,
            mib(facts[name]["weight_bytes"]),
            f"{limits[name]['memory']:.0f} tok/s",
            percent(one / limits[name]["memory"]),
            f"{arithmetic:.0f} tok/s" if int8 else "–",
            percent(many / arithmetic) if int8 else "–",
            percent(long / arithmetic) if int8 else "–",
        ))  # fmt: skip
    return Table(
        title="Shares of this machine's limits",
        columns=(
            "dtype", "weights", "memory limit, 1 stream", "reached", "int8 limit",
            "reached, 32 streams", "reached, prefill",
        ),
        rows=tuple(rows),
        notes=(
            "The memory limit is the rate at which both processors read a buffer as large as the "
            "weights again and again; the int8 limit is oneDNN's rate on large square matrices, "
            "in this run.",
        ),
    )  # fmt: skip
