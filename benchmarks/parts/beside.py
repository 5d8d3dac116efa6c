"""What running streams feel of a long prompt that comes in: seconds between their tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import msgspec

from benchmarks import servers
from benchmarks.contenders import default_model
from benchmarks.parts.http import start_all
from benchmarks.parts.works import PROMPT, Plan
from benchmarks.processes import Failed
from benchmarks.report import Result, Table, failures, ms, times
from benchmarks.servers import Serving
from benchmarks.statistics import figure, interleaved
from benchmarks.text import Text
from paceline.bench import quantile, stream

STREAMS = 8
LONG = 4000
NEW = 3000
"""Enough for the streams to outlast the prompt."""
KV_TOKENS = 2 * STREAMS * NEW
BEGIN_S = 2.0
"""When the long prompt comes, after the streams."""
TIMEOUT_S = 120.0
MOST_TIMES = 3.0
"""What is promised of the p99, over that without the prompt."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One round. Seconds between tokens of the running streams, without and with the prompt."""

    idle_s: list[float]
    beside_s: list[float]
    first_s: float
    """The prompt's own wait for its first token."""

    def ratio(self, part: float) -> float:
        return quantile(self.beside_s, part) / quantile(self.idle_s, part)


def measure(plan: Plan) -> Result:
    text = Text(default_model().checkpoint)
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        serving = start_all(stack, [servers.paceline(1, 1, "int8", kv_tokens=KV_TOKENS)], failed)
        jobs = {name: _job(one, text, plan.rounds) for name, one in serving.items()}
        seen, broken = interleaved(plan.rounds, jobs, Failed)
    rows = [_row(name, each) for name, each in seen.items()]
    table = Table(
        title=f"A prompt of {LONG} tokens beside {STREAMS} running streams, over HTTP",
        columns=(
            "server", "between tokens p50, p99: idle", "beside the prompt", "p50 over idle",
            "p99 over idle", "promise", "prompt's first token",
        ),
        rows=tuple(rows),
        notes=failures(failed | broken),
    )  # fmt: skip
    data = {name: [_numbers(one) for one in each] for name, each in seen.items()}
    return Result(tables=(table,), data={"seen": data})


def _numbers(one: Seen) -> dict[str, float]:
    gaps = {"idle": one.idle_s, "beside": one.beside_s}
    return {"first_s": one.first_s} | {
        f"{name}_p{part}_s": quantile(each, part / 100)
        for name, each in gaps.items()
        for part in (50, 99)
    }


def _row(name: str, each: list[Seen]) -> tuple[str, ...]:
    idle, beside = (
        [gap for one in each for gap in getattr(one, gaps)] for gaps in ("idle_s", "beside_s")
    )
    worst = figure([one.ratio(0.99) for one in each])
    return (
        name,
        f"{ms(quantile(idle, 0.5))}, {ms(quantile(idle, 0.99))}",
        f"{ms(quantile(beside, 0.5))}, {ms(quantile(beside, 0.99))}",
        times(figure([one.ratio(0.5) for one in each])),
        times(worst),
        "kept" if worst.median <= MOST_TIMES else "**broken**",
        ms(figure([one.first_s for one in each]).median),
    )


def _job(serving: Serving, text: Text, rounds: int) -> Callable[[], Seen]:
    """A long prompt of its own for each round: the pages of the last one are still known."""
    short, longs = text.prompts(STREAMS, PROMPT), iter(text.prompts(rounds, LONG))
    return lambda: asyncio.run(_streams_and_prompt(serving, short, next(longs)))


async def _streams_and_prompt(serving: Serving, short: list[list[int]], long: list[int]) -> Seen:
    """Raises Failed unless every stream ran from before the prompt until its first token."""
    running = [
        asyncio.ensure_future(stream(serving.target, _body(serving, one, NEW), TIMEOUT_S))
        for one in short
    ]
    await asyncio.sleep(BEGIN_S)
    prompt = await stream(serving.target, _body(serving, long, 1), TIMEOUT_S)
    streams = await asyncio.gather(*running)
    for one in (prompt, *streams):
        if one.error:
            raise Failed(one.error)
    began, first = prompt.sent_at, prompt.pieces[0]
    if not all(one.pieces[0] < began and first < one.ended_at for one in streams):
        raise Failed("a stream did not run all the time that the prompt was read")
    filled = max(one.pieces[0] for one in streams)
    gaps = [
        (a, b)
        for one in streams
        for a, b in zip(one.pieces, one.pieces[1:], strict=False)
        if a >= filled
    ]
    return Seen(
        idle_s=[b - a for a, b in gaps if b < began or a > first],
        beside_s=[b - a for a, b in gaps if b >= began and a <= first],
        first_s=prompt.first_s,
    )


def _body(serving: Serving, prompt: list[int], new: int) -> dict[str, Any]:
    return {
        "model": serving.model,
        "prompt": prompt,
        "max_tokens": new,
        "temperature": 0,
        "ignore_eos": True,
    }
