"""Paceline's engine alone: speed, waiting, memory, and how near the machine's limits it is."""

from __future__ import annotations

from typing import Any

from benchmarks.contenders import default_model, paceline, started
from benchmarks.machine import int8_products_per_s, read_bytes_per_s
from benchmarks.parts.works import KINDS, Outcomes, Plan, gap, run_kinds
from benchmarks.report import Result, Table, failures, mib, ms, percent, rate
from benchmarks.statistics import figure
from benchmarks.text import Text
from paceline.checkpoint.facts import model_facts
from paceline.process.cpus import usable_cpus

DTYPES = ("int8", "int4", "float32")


def measure(plan: Plan) -> Result:
    model = default_model()
    text = Text(model.checkpoint)
    threads = usable_cpus()
    contenders = {
        one.name: one for one in (paceline(model, d, threads, guesses=False) for d in DTYPES)
    }
    with started(list(contenders.values())) as (workers, failed):
        outcomes, broken = run_kinds(workers, text, plan.rounds)
        facts = {name: workers[name].facts for name in outcomes}
        memory = {name: workers[name].group.resident_bytes() for name in outcomes}
    dtypes = {name: contenders[name].precision for name in outcomes}
    shape = model_facts(model.checkpoint, "model")
    weights = sum(shape.layer_params) + shape.head_params
    arithmetic = int8_products_per_s() / weights
    limits = {name: _limits(facts[name]["weight_bytes"], arithmetic) for name in outcomes}
    rates = {
        name: {k: [KINDS[k].tokens_per_s(one) for one in each] for k, each in found.items()}
        for name, found in outcomes.items()
    }
    tables = (
        _speeds(rates, memory, outcomes, failures(failed | broken)),
        _shares(dtypes, rates, limits, facts),
    )
    return Result(
        tables=tables,
        data={"rates": rates, "limits": limits, "facts": facts, "memory": memory},
    )


def _limits(weight_bytes: int, arithmetic: float) -> dict[str, float]:
    """Tokens per second at most: one stream reads all weights for each, and each multiplies them
    all."""
    return {
        "memory": read_bytes_per_s(weight_bytes) / weight_bytes,
        "int8": arithmetic,
    }


def _speeds(
    rates: dict[str, dict[str, list[float]]],
    memory: dict[str, int],
    outcomes: Outcomes,
    notes: tuple[str, ...],
) -> Table:
    rows = []
    for name, found in outcomes.items():
        one, many, long = (found[kind] for kind in ("1 stream", "32 streams", "prefill, 500"))
        rows.append((
            name,
            *(rate(figure(rates[name][kind])) for kind in KINDS),
            ms(figure([each.prefill_s / KINDS["1 stream"].turns for each in one]).median),
            ms(figure([each.prefill_s / KINDS["prefill, 500"].turns for each in long]).median),
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
    dtypes: dict[str, str],
    rates: dict[str, dict[str, list[float]]],
    limits: dict[str, dict[str, float]],
    facts: dict[str, Any],
) -> Table:
    rows = []
    for name, dtype in dtypes.items():
        one, many = (figure(rates[name][kind]).median for kind in ("1 stream", "32 streams"))
        long = figure(rates[name]["prefill, 500"]).median
        arithmetic = limits[name]["int8"]
        is_float = dtype == "float32"
        rows.append((
            name,
            mib(facts[name]["weight_bytes"]),
            f"{limits[name]['memory']:.0f} tok/s",
            percent(one / limits[name]["memory"]),
            "–" if is_float else f"{arithmetic:.0f} tok/s",
            "–" if is_float else percent(many / arithmetic),
            "–" if is_float else percent(long / arithmetic),
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
