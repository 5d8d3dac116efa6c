"""Clients that start together, level after level."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from paceline.bench.levels import Level, Round, level_of
from paceline.bench.prompts import prompts
from paceline.bench.streaming import Target, stream
from paceline.types.errors import InvalidRequest

MAX_CONCURRENCY = 1024
WARM_TOKENS = 8


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of the server."""

    model: str
    concurrency: tuple[int, ...] = (1, 8, 32)
    tokens: int = 64
    """Generated for each request, no fewer and no more."""
    prompt_words: int = 24
    rounds: int = 2
    """How often each level is measured."""
    timeout_s: float = 300.0
    """For one request."""


async def measure(
    target: Target, load: Load, on_level: Callable[[Level], None] = lambda level: None
) -> list[Level]:
    """A figure for each concurrency, in order, after a few tokens that warm the server up.

    Raises InvalidRequest for a load that nobody can make.
    """
    check(load)
    await burst(target, _bodies(load, 1, WARM_TOKENS, 0), load.timeout_s)
    levels, asked = [], 1
    for concurrency in load.concurrency:
        rounds = []
        for _ in range(load.rounds):
            bodies = _bodies(load, concurrency, load.tokens, asked)
            asked += concurrency
            rounds.append(await burst(target, bodies, load.timeout_s))
        levels.append(level_of(concurrency, rounds))
        on_level(levels[-1])
    return levels


async def burst(target: Target, bodies: Sequence[dict[str, Any]], timeout_s: float) -> Round:
    """All requests at once."""
    answers = (stream(target, body, timeout_s) for body in bodies)
    return Round(tuple(await asyncio.gather(*answers)))


def _bodies(load: Load, count: int, tokens: int, first: int) -> list[dict[str, Any]]:
    return [
        {
            "model": load.model,
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        for prompt in prompts(count, load.prompt_words, first)
    ]


def check(load: Load) -> None:
    """Raises InvalidRequest."""
    if not load.concurrency or not all(1 <= n <= MAX_CONCURRENCY for n in load.concurrency):
        raise InvalidRequest(f"concurrency is one or more numbers from 1 to {MAX_CONCURRENCY}")
    if min(load.tokens, load.prompt_words, load.rounds) < 1:
        raise InvalidRequest("tokens, prompt words and rounds are at least 1")
