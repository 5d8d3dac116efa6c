"""Engines side by side: the same model, prompts, token counts and processors."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import msgspec

from benchmarks.contenders import Contender, all_contenders, default_model, started
from benchmarks.parts.works import KINDS, Plan, run_kinds
from benchmarks.processes import Failed, Worker
from benchmarks.report import Result, Table, failures, mib, rate, times
from benchmarks.statistics import figure, ratio
from benchmarks.text import Text
from benchmarks.work import Outcome

OURS = ("Paceline int8", "Paceline int4")
BEST = "llama.cpp's best"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One system: tokens per second of each round, by kind of work."""

    name: str
    rates: dict[str, list[float]]
    perplexity: float | None
    """None where the system could not tell it."""
    resident_bytes: int
    insane: int
    """Answers that look like no text."""
    answers: int
    sample: str
    """What it wrote."""


def measure(plan: Plan) -> Result:
    model = default_model()
    text = Text(model.checkpoint)
    contenders = [one for one in all_contenders(model) if plan.wants(one.name)]
    with started(contenders) as (workers, failed):
        outcomes, broken = run_kinds(workers, text, plan.rounds)
        rows = [_row(name, workers[name], found, text) for name, found in outcomes.items()]
    failed |= broken
    by_name = {row.name: row for row in rows}
    ratios = [_ratios(by_name, ours) for ours in OURS if ours in by_name]
    return Result(
        tables=(*ratios, _speeds(rows, contenders, failed)),
        data={"systems": msgspec.to_builtins(rows), "failed": failed},
    )


def _row(name: str, worker: Worker, found: Mapping[str, list[Outcome]], text: Text) -> Row:
    answers = [ids for each in found.values() for ids in each[0].answers]
    return Row(
        name=name,
        rates={k: [KINDS[k].tokens_per_s(one) for one in each] for k, each in found.items()},
        perplexity=_perplexity(worker, text),
        resident_bytes=worker.group.resident_bytes(),
        insane=len(text.insane(answers)),
        answers=len(answers),
        sample=text.decode(answers[0]),
    )


def _perplexity(worker: Worker, text: Text) -> float | None:
    try:
        return worker.perplexity(text.ids)
    except Failed as error:
        print(f"no perplexity: {error}", file=sys.stderr)
        return None


def best_of(rows: Mapping[str, Row], prefix: str) -> dict[str, list[float]]:
    """Of the systems with that prefix, the fastest one's rates, for each kind of work."""
    peers = [row for name, row in rows.items() if name.startswith(prefix)]
    return {
        kind: max((row.rates[kind] for row in peers), key=lambda v: figure(v).median)
        for kind in (KINDS if peers else ())
    }


def _ratios(rows: Mapping[str, Row], name: str) -> Table:
    ours = rows[name].rates
    best = best_of(rows, "llama.cpp")
    others = ({BEST: best} if best else {}) | {
        other: row.rates for other, row in rows.items() if other != name
    }
    return Table(
        title=f"{name}: its speed over each other's",
        columns=("over", *KINDS),
        rows=tuple(
            (other, *(times(ratio(ours[kind], rates[kind])) for kind in KINDS))
            for other, rates in others.items()
        ),
    )


def _speeds(rows: list[Row], contenders: list[Contender], failed: dict[str, str]) -> Table:
    precision = {one.name: one.precision for one in contenders}
    return Table(
        title="Tokens per second, median of interleaved rounds (lowest–highest)",
        columns=("system", "weights", *KINDS, "perplexity", "resident", "sane answers"),
        rows=tuple(
            (
                row.name,
                precision[row.name],
                *(rate(figure(row.rates[kind])) for kind in KINDS),
                "–" if row.perplexity is None else f"{row.perplexity:.2f}",
                mib(row.resident_bytes),
                f"{row.answers - row.insane} of {row.answers}",
            )
            for row in rows
        ),
        notes=failures(failed),
    )
