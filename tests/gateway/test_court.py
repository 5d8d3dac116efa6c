"""Requests that kill what runs them, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from paceline.gateway.suspicion import ALONE, SHARED
from paceline.types.ids import Epoch
from paceline.types.states import InstanceState
from paceline.types.stream import StreamRecord
from tests.gateway.rig import EOS, MODEL, QUICK, Rig, ScriptedDriver, ids_of, rig, view

pytestmark = pytest.mark.anyio

BAD = 13
PATIENT = msgspec.structs.replace(QUICK, stall_s=20.0)
"""A slow machine is no stall."""
Deadly = Callable[[StreamRecord], bool]


def answer(record: StreamRecord) -> list[int]:
    return [*ids_of(f"<{record.params.seed}>" * 6), EOS]


class Service:
    """An instance that recovers each time its driver dies."""

    def __init__(
        self, r: Rig, deadly: Deadly, *, decided: bool = False, first_dies_at: int | None = None
    ) -> None:
        self.deaths = 0
        self._dies_at = first_dies_at
        self._rig = r
        self._deadly = deadly
        self._decided = decided

    async def run(self) -> None:
        while True:
            epoch = Epoch(1, 1 + self.deaths)
            driver = self._rig.driver(answer, epoch=epoch, pace_s=0.003)
            driver.deadly = self._deadly
            driver.die_at, self._dies_at = self._dies_at, None
            self._say(driver, epoch)
            await driver.dead.wait()
            self.deaths += 1
            retired = epoch if self._decided else None
            self._rig.control.say([], [view(InstanceState.RECOVERING, retired=retired)])
            await asyncio.sleep(0.02)

    def _say(self, driver: ScriptedDriver, epoch: Epoch) -> None:
        retired = Epoch(1, epoch.n - 1) if self._decided else None
        self._rig.control.say([driver.route()], [view(retired=retired)])


@asynccontextmanager
async def service(
    short: Path, deadly: Deadly, **options: Any
) -> AsyncIterator[tuple[Rig, Service]]:
    async with rig(short, PATIENT) as r:
        made = Service(r, deadly, **options)
        task = asyncio.create_task(made.run())
        yield r, made
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask(r: Rig, seed: int, **options: Any) -> str:
    messages: Any = [{"role": "user", "content": "hi"}]
    got = await r.openai.chat.completions.create(
        model=MODEL, messages=messages, seed=seed, **options
    )
    return str(got.choices[0].message.content)


def expected(seed: int) -> str:
    return f"<{seed}>" * 6


def by_prompt(record: StreamRecord) -> bool:
    return record.params.seed == BAD


def in_the_midst(record: StreamRecord) -> bool:
    return record.params.seed == BAD and len(record.emitted_ids) >= 5


async def test_one_that_kills_fails_alone_and_its_instance_lives(short: Path) -> None:
    async with service(short, by_prompt) as (r, there):
        asked = {seed: asyncio.create_task(ask(r, seed)) for seed in (10, 11, 12, BAD, 14)}
        with pytest.raises(openai.UnprocessableEntityError, match="had it to itself") as caught:
            await asked.pop(BAD)
        assert caught.value.code == "request_ends_its_line"
        for seed, task in asked.items():
            assert await task == expected(seed)
        assert there.deaths <= SHARED + ALONE
        assert await ask(r, 20) == expected(20)


async def test_one_alone_from_the_beginning(short: Path) -> None:
    async with service(short, by_prompt) as (r, there):
        with pytest.raises(openai.UnprocessableEntityError):
            await ask(r, BAD)
        assert there.deaths == ALONE
        assert await r.metric('stream_suspicions_total{company="alone"}') == ALONE


async def streamed(r: Rig, seed: int, into: list[str]) -> None:
    messages: Any = [{"role": "user", "content": "hi"}]
    stream = await r.openai.chat.completions.create(
        model=MODEL, messages=messages, seed=seed, stream=True
    )
    async for chunk in stream:
        into.append(chunk.choices[0].delta.content or "")


async def test_one_that_kills_after_some_tokens_is_told_in_its_stream(short: Path) -> None:
    """The first driver ends by chance, when the stream has got to where it kills."""
    async with service(short, in_the_midst, first_dies_at=9) as (r, _):
        other, text = asyncio.create_task(ask(r, 10)), list[str]()
        with pytest.raises(openai.APIError, match=r"after [5-9] tokens of its answer"):
            await streamed(r, BAD, text)
        assert 5 <= len("".join(text)) <= 9
        assert expected(BAD).startswith("".join(text))
        assert await other == expected(10)


async def test_lines_that_end_by_decision_count_against_nobody(short: Path) -> None:
    deaths = iter(range(SHARED + 2 * ALONE))
    async with service(short, lambda record: next(deaths, None) is not None, decided=True) as (
        r,
        there,
    ):
        assert await ask(r, BAD) == expected(BAD)
        assert there.deaths == SHARED + 2 * ALONE


async def test_failures_by_chance_are_survived(short: Path) -> None:
    """As many as make suspects of all, and then one in the first trial."""
    deaths = iter(range(SHARED + 1))
    async with service(short, lambda record: next(deaths, None) is not None) as (r, there):
        asked = {seed: asyncio.create_task(ask(r, seed)) for seed in range(20, 26)}
        for seed, task in asked.items():
            assert await task == expected(seed)
        assert there.deaths == SHARED + 1
