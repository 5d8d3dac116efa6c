"""`paceline bench`: how fast this machine serves a model, as a client sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from paceline.bench import Level, Load, Target, check, measure
from paceline.cli import show
from paceline.cli.api import Api
from paceline.cli.models import ensure_model
from paceline.cli.run import Question, cluster_for, placement, ready_instance
from paceline.planner import human_bytes
from paceline.process.home import Home
from paceline.types.errors import InvalidRequest


class Benched(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured, and of what."""

    model: str
    dtype: str
    world_size: int
    placement: list[show.Row]
    memory_bytes: int
    """Resident and anonymous, of all its runners, after the load."""
    levels: list[Level]


def parse_concurrency(text: str) -> tuple[int, ...]:
    """Numbers between commas. Raises InvalidRequest."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InvalidRequest(f"concurrency {text!r} is not numbers such as 1,8,32") from error


def bench(home: Home, api: Api | None, world_size: int | None, dtype: str, load: Load) -> Benched:
    """In the running cluster, or in one started for it. Errors of requests are counted."""
    check(load)
    if api is None:
        ensure_model(load.model, home)
    question = Question(
        model=load.model, prompt="", min_nodes=world_size or 1, max_nodes=world_size, dtype=dtype
    )
    with cluster_for(home, api, None, question.min_nodes) as cluster:
        instance = ready_instance(cluster, question)
        target = Target(cluster.url, cluster.api_key)
        levels = asyncio.run(measure(target, load, _tell))
        after = cluster.get(f"/api/instances/{instance['id']}")
        return Benched(
            model=load.model,
            dtype=instance["dtype"],
            world_size=instance["world_size"],
            placement=placement(instance),
            memory_bytes=sum(runner.get("memory_bytes") or 0 for runner in after["runners"]),
            levels=levels,
        )


def _tell(level: Level) -> None:
    failed = f", {level.errors} failed ({level.first_error})" if level.errors else ""
    show.err.print(
        f"{level.concurrency} at once: {level.tokens_per_s:.1f} tok/s{failed}",
        style="dim",
        markup=False,
    )


def _ms(key: str) -> show.Column:
    titles = {
        "first_p50_s": "FIRST p50",
        "first_p99_s": "FIRST p99",
        "gap_p50_s": "NEXT p50",
        "gap_p99_s": "NEXT p99",
    }
    return titles[key], lambda row: f"{1000 * row[key]:.1f} ms"


LEVELS: Sequence[show.Column] = (
    ("STREAMS", show.text("concurrency")),
    ("TOK/S", lambda row: f"{row['tokens_per_s']:.1f}"),
    _ms("first_p50_s"),
    _ms("first_p99_s"),
    _ms("gap_p50_s"),
    _ms("gap_p99_s"),
    ("TOKENS", show.text("tokens")),
    ("ERRORS", show.text("errors")),
)


def show_benched(benched: Benched) -> None:
    show.table(LEVELS, [msgspec.to_builtins(level) for level in benched.levels], "nothing")
    show.line(
        f"{benched.model} ({benched.dtype}), world_size {benched.world_size}, "
        f"{human_bytes(benched.memory_bytes)} in its runners"
    )
