"""Servers side by side: 32 clients that stream over HTTP, and what HTTP itself costs Paceline."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import msgspec

from benchmarks import contenders, servers
from benchmarks.parts.works import NEW, PROMPT, Plan
from benchmarks.processes import Failed, Worker
from benchmarks.report import Result, Table, failures, mib, ms, percent, rate, times
from benchmarks.servers import STREAMS, Server, Serving
from benchmarks.statistics import figure, interleaved, ratio
from benchmarks.text import JUDGED_TOKENS, MOST_INSANE, Text, is_sane
from benchmarks.work import Work
from paceline.bench import Round, level_of
from paceline.bench.load import burst
from paceline.process.cpus import usable_cpus

OURS = "Paceline int8"
ENGINE = "its engine alone"
GATEWAY = "paceline.gateway"
TIMEOUT_S = 120.0
WARM_TOKENS = 4


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One round, and whose processor seconds it took."""

    tokens_per_s: float
    round: Round = Round(())
    wall_s: float = 0.0
    gateway_s: float = 0.0
    clients_s: float = 0.0


def measure(plan: Plan) -> Result:
    model = contenders.default_model()
    text = Text(model.checkpoint)
    threads = usable_cpus()
    work = Work(text.prompts(STREAMS, PROMPT), NEW)
    with ExitStack() as stack:
        engine = contenders.paceline(model, "int8", threads)
        workers, failed = stack.enter_context(contenders.started([engine]))
        chosen = [
            servers.paceline(1, 1, "int8"),
            *(servers.xllamacpp(model, kind, threads) for kind in ("Q4_0", "Q4_1", "Q8_0")),
            *(servers.vllm(model, threads, precision) for precision in ("float32", "W8A8")),
        ]
        serving = start_all(stack, [one for one in chosen if plan.wants(one.name)], failed)
        jobs: dict[str, Callable[[], Seen]] = {
            name: partial(over_http, one, work) for name, one in serving.items()
        }
        if engine.name in workers:
            jobs[ENGINE] = partial(_engine, workers[engine.name], work)
        warm_up(serving, work)
        seen, broken = interleaved(plan.rounds, jobs, Failed)
        memory = {name: one.resident_bytes() for name, one in serving.items() if name in seen}
    tables = (_speeds(seen, memory, failed | broken, threads), *_cost(seen, threads))
    data = {"seen": {name: _numbers(each) for name, each in seen.items()}, "memory": memory}
    return Result(tables=tables, data=data | {"failed": failed | broken})


def start_all(
    stack: ExitStack, chosen: Sequence[Server], failed: dict[str, str]
) -> dict[str, Serving]:
    """Those that could be started; why the others could not goes into `failed`."""
    serving: dict[str, Serving] = {}
    for server in chosen:
        try:
            if server.missing:
                raise Failed(server.missing)
            serving[server.name] = stack.enter_context(server.start())
        except Failed as error:
            failed[server.name] = str(error)
    return serving


def warm_up(serving: Mapping[str, Serving], work: Work) -> None:
    """A short round each; whoever fails it fails the next one too, and is reported there."""
    short = Work(work.prompts, WARM_TOKENS)
    interleaved(1, {name: partial(over_http, one, short) for name, one in serving.items()}, Failed)


def over_http(serving: Serving, work: Work) -> Seen:
    """All prompts at once, from one client each. Raises Failed for anything but sane text."""
    bodies = [
        {
            "model": serving.model,
            "prompt": prompt,
            "max_tokens": work.new,
            "temperature": 0,
            "ignore_eos": True,
        }
        for prompt in work.prompts
    ]
    gateway, clients, began = serving.cpu_s(GATEWAY), _own_cpu_s(), time.monotonic()
    found = asyncio.run(burst(serving.target, bodies, TIMEOUT_S))
    seen = Seen(
        tokens_per_s=found.tokens_per_s,
        round=found,
        wall_s=time.monotonic() - began,
        gateway_s=serving.cpu_s(GATEWAY) - gateway,
        clients_s=_own_cpu_s() - clients,
    )
    _check(found, work)
    return seen


def _check(found: Round, work: Work) -> None:
    errors = [one.error for one in found.timelines if one.error]
    if errors:
        raise Failed(f"{len(errors)} of {len(found.timelines)} requests failed: {errors[0]}")
    short = [one.tokens for one in found.timelines if one.tokens != work.new]
    if short:
        raise Failed(f"{len(short)} answers have {short[0]} tokens instead of {work.new}")
    insane = [one.text for one in found.timelines if not is_sane(one.text)]
    if work.new >= JUDGED_TOKENS and len(insane) > MOST_INSANE * len(found.timelines):
        raise Failed(f"{len(insane)} answers are no text, such as {insane[0]!r}")


def _engine(worker: Worker, work: Work) -> Seen:
    outcome = worker.run(work)
    took = outcome.prefill_s + outcome.decode_s
    return Seen(tokens_per_s=work.streams * work.new / took)


def _own_cpu_s() -> float:
    spent = os.times()
    return spent.user + spent.system


def _speeds(
    seen: Mapping[str, list[Seen]], memory: Mapping[str, int], failed: dict[str, str], threads: int
) -> Table:
    rows = []
    for name in memory:
        level = level_of(STREAMS, [one.round for one in seen[name]])
        rates = [one.tokens_per_s for one in seen[name]]
        over = (
            times(ratio([one.tokens_per_s for one in seen[OURS]], rates)) if OURS in seen else "–"
        )
        row = (
            name, over, rate(figure(rates)), ms(level.first_p50_s), ms(level.first_p99_s),
            ms(level.gap_p50_s), ms(level.gap_p99_s), mib(memory[name]),
        )  # fmt: skip
        rows.append(row)
    return Table(
        title=f"{STREAMS} clients over HTTP on {threads} processors, {PROMPT} tokens of prompt, "
        f"{NEW} new ones",
        columns=(
            "server", f"{OURS} over it", "tok/s", "first token p50", "p99", "between tokens p50",
            "p99", "resident",
        ),
        rows=tuple(rows),
        notes=failures(failed),
    )  # fmt: skip


def _cost(seen: Mapping[str, list[Seen]], threads: int) -> list[Table]:
    """What the gateway and its clients cost, if both ends were measured."""
    if OURS not in seen or ENGINE not in seen:
        return []
    ours = seen[OURS]
    part = ratio([one.tokens_per_s for one in ours], [one.tokens_per_s for one in seen[ENGINE]])
    row = (
        rate(figure([one.tokens_per_s for one in seen[ENGINE]])),
        rate(figure([one.tokens_per_s for one in ours])),
        times(part),
        percent(figure([one.gateway_s / one.wall_s / threads for one in ours]).median),
        percent(figure([one.clients_s / one.wall_s / threads for one in ours]).median),
    )
    return [
        Table(
            title="What HTTP costs Paceline, on the same processors",
            columns=(
                "engine alone, tok/s", "through HTTP", "part that is left",
                "gateway's part of all processors", "the measuring clients' part",
            ),
            rows=(row,),
        )
    ]  # fmt: skip


def _numbers(each: list[Seen]) -> dict[str, object]:
    return {
        "tokens_per_s": [one.tokens_per_s for one in each],
        "gateway_s": [one.gateway_s for one in each],
        "clients_s": [one.clients_s for one in each],
        "wall_s": [one.wall_s for one in each],
        "level": msgspec.to_builtins(level_of(STREAMS, [one.round for one in each])),
    }
