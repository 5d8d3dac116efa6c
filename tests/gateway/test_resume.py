"""Drivers die, stall, close, lose and repeat; clients see a pause and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from paceline.types.ids import Epoch
from paceline.types.states import InstanceState
from paceline.types.stream import StreamRecord
from tests.gateway.rig import EOS, MODEL, QUICK, Rig, ScriptedDriver, ids_of, rig, say, view

pytestmark = pytest.mark.anyio

HI: Any = [{"role": "user", "content": "hi"}]
TEXT = "Größe 🌍 und noch mehr — ¡olé! " * 3
NEXT = Epoch(1, 2)


async def streamed(r: Rig, **options: Any) -> dict[str, Any]:
    """All that a streaming client gets: text, finish reason, usage, logprobs."""
    got: dict[str, Any] = {"text": "", "reason": None, "logprobs": []}
    stream = await r.openai.chat.completions.create(
        model=MODEL,
        messages=HI,
        stream=True,
        logprobs=True,
        stream_options={"include_usage": True},
        **options,
    )
    async for chunk in stream:
        got["usage"] = chunk.usage or got.get("usage")
        for choice in chunk.choices:
            got["text"] += choice.delta.content or ""
            got["reason"] = choice.finish_reason or got["reason"]
            if choice.logprobs and choice.logprobs.content:
                got["logprobs"] += choice.logprobs.content
    return got


async def whole(r: Rig, **options: Any) -> dict[str, Any]:
    """The same from a client that waits for all of it."""
    answer = await r.openai.chat.completions.create(
        model=MODEL, messages=HI, logprobs=True, **options
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None
    return {
        "text": choice.message.content,
        "reason": choice.finish_reason,
        "usage": answer.usage,
        "logprobs": choice.logprobs.content,
    }


@asynccontextmanager
async def disturbed(short: Path, text: str = TEXT) -> AsyncIterator[tuple[Rig, ScriptedDriver]]:
    async with rig(short) as r:
        yield r, r.serve(say(text), pace_s=0.003)


async def undisturbed(r: Rig, ask: Any, **options: Any) -> dict[str, Any]:
    """What the same request brings from a driver without faults."""
    calm = r.driver(say(TEXT), epoch=Epoch(9, 9))
    r.control.say([calm.route()], [view()], term=9)
    await r.until(lambda: r.gateway.drivers.table.routes["i-1"].epoch == Epoch(9, 9))
    return dict(await ask(r, **options))


async def left(r: Rig) -> None:
    """Until the stream has left its driver: what a new line may not overtake has been read."""
    async with asyncio.timeout(10):
        while not await r.metric("stream_resubmissions_total"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def next_epoch(r: Rig, text: str = TEXT, **options: Any) -> ScriptedDriver:
    driver = r.driver(say(text), epoch=NEXT, **options)
    r.control.say([driver.route()], [view()])
    return driver


@pytest.mark.parametrize("ask", [streamed, whole])
async def test_a_driver_dies_in_the_midst(short: Path, ask: Any) -> None:
    async with disturbed(short) as (r, driver):
        at = len("Größe ".encode()) + 2
        driver.die_at = at
        asking = asyncio.create_task(ask(r))
        await driver.dead.wait()
        r.control.say([], [view(InstanceState.RECOVERING)])
        await asyncio.sleep(0.05)
        second = await next_epoch(r)
        got = await asking
        assert got["text"] == TEXT
        assert got["reason"] == "stop"
        record = second.submitted[0]
        assert (record.attempt, record.stream_id) == (2, driver.submitted[0].stream_id)
        assert list(record.emitted_ids) == ids_of(TEXT)[:at]
        assert record.params == driver.submitted[0].params
        assert got == await undisturbed(r, ask)


async def test_a_stop_string_straddles_the_break(short: Path) -> None:
    async with disturbed(short, "before STOP after") as (r, driver):
        driver.die_at = len("before ST")
        asking = asyncio.create_task(streamed(r, stop=["STOP"]))
        await driver.dead.wait()
        second = await next_epoch(r, "before STOP after", pace_s=0.01)
        got = await asking
        assert (got["text"], got["reason"]) == ("before ", "stop")
        assert got["usage"].completion_tokens == len("before STOP")
        await r.until(lambda: second.cancelled)


async def test_it_dies_between_the_last_token_and_its_word(short: Path) -> None:
    """Here before the end-of-sequence token: the next driver draws only that one."""
    async with disturbed(short) as (r, driver):
        driver.die_at = len(ids_of(TEXT))
        asking = asyncio.create_task(whole(r))
        await left(r)
        second = await next_epoch(r)
        assert (await asking)["text"] == TEXT
        assert second.submitted[0].emitted_ids == tuple(ids_of(TEXT))


async def test_a_driver_says_that_it_closes(short: Path) -> None:
    async with disturbed(short) as (r, driver):
        driver.closing_at = 10
        asking = asyncio.create_task(streamed(r))
        await left(r)
        second = await next_epoch(r)
        assert (await asking)["text"] == TEXT
        assert len(driver.submitted) == 1
        assert second.submitted[0].attempt == 2
        assert await r.metric('stream_resubmissions_total{reason="closing"}') == 1


async def test_a_newer_line_takes_over_while_the_old_one_still_emits(short: Path) -> None:
    async with disturbed(short) as (r, driver):
        asking = asyncio.create_task(streamed(r))
        await r.until(lambda: driver.submitted)
        await asyncio.sleep(0.05)
        second = await next_epoch(r, pace_s=0.003)
        assert (await asking)["text"] == TEXT
        assert second.submitted
        assert driver.cancelled


async def test_a_route_that_vanishes_stops_no_running_stream(short: Path) -> None:
    async with disturbed(short) as (r, driver):
        asking = asyncio.create_task(streamed(r))
        await r.until(lambda: driver.submitted)
        r.control.say([], [view(InstanceState.DRAINING)])
        assert (await asking)["text"] == TEXT
        assert len(driver.submitted) == 1


async def test_the_controller_goes_and_the_routes_stay(short: Path) -> None:
    async with disturbed(short) as (r, _):
        r.control.away = True
        assert (await streamed(r))["text"] == TEXT
        assert (await r.http.get("/api/nodes")).status_code == 503
        assert (await streamed(r))["text"] == TEXT


async def test_an_older_controllers_routes_change_nothing(short: Path) -> None:
    async with rig(short) as r:
        driver = r.driver(say(TEXT), pace_s=0.003)
        r.control.say([driver.route()], [view()], term=5)
        asking = asyncio.create_task(streamed(r))
        await r.until(lambda: driver.submitted)
        r.control.say([], [], term=4)
        assert (await asking)["text"] == TEXT
        assert (await streamed(r))["text"] == TEXT


@pytest.mark.parametrize("wakes", [False, True])
async def test_a_driver_that_was_stopped(short: Path, wakes: bool) -> None:
    """Silent, as by SIGSTOP; then another line takes over, or the same driver wakes again."""
    async with disturbed(short) as (r, driver):
        asking = asyncio.create_task(streamed(r))
        await r.until(lambda: driver.submitted)
        driver.deaf = True
        links = r.gateway.drivers.table.routes
        await r.until(lambda: links)
        await asyncio.sleep(QUICK.link_silence_s + 0.3)
        if wakes:
            driver.deaf = False
        else:
            await next_epoch(r)
        got = await asking
        assert got["text"] == TEXT
        assert got["usage"].completion_tokens == len(ids_of(TEXT)) + 1
        assert await r.metric('stream_resubmissions_total{reason="link"}') >= 1


async def test_another_ready_instance_takes_over(short: Path) -> None:
    async with rig(short) as r:
        first = r.driver(say(TEXT), instance="i-1", pace_s=0.003, numerics_id="n-1")
        other = r.driver(say(TEXT), instance="i-2", pace_s=0.003, numerics_id="n-2")
        r.control.say([first.route(), other.route(running=5)], [view(), view(name="i-2")])
        first.closing_at = 10
        assert (await streamed(r))["text"] == TEXT
        assert (len(first.submitted), len(other.submitted)) == (1, 1)
        assert await r.metric("stream_numerics_changes_total") == 1


async def test_streams_go_to_the_least_loaded(short: Path) -> None:
    async with rig(short) as r:
        busy = r.driver(say("x"), instance="i-1")
        free = r.driver(say("x"), instance="i-2")
        r.control.say([busy.route(running=3, waiting=1), free.route(running=1)], [view()])
        await asyncio.gather(*(r.chat() for _ in range(3)))
        assert (len(busy.submitted), len(free.submitted)) == (0, 3)


@pytest.mark.parametrize("withheld", [{0}, {7, 20}, {len(ids_of(TEXT))}])
async def test_tokens_that_were_drawn_and_not_delivered(short: Path, withheld: set[int]) -> None:
    async with disturbed(short) as (r, driver):
        driver.withheld = set(withheld)
        got = await streamed(r)
        assert (got["text"], got["reason"]) == (TEXT, "stop")
        assert got["usage"].completion_tokens == len(ids_of(TEXT)) + 1
        assert len(driver.submitted) == 1 + len(withheld)


async def test_messages_that_come_twice(short: Path) -> None:
    async with disturbed(short) as (r, driver):
        driver.repeat = 2
        got = await streamed(r)
        assert got["text"] == TEXT
        assert len(got["logprobs"]) == len(ids_of(TEXT))
        assert await r.metric("stream_messages_dropped_total") > 10


async def test_a_stream_without_progress_is_submitted_again(short: Path) -> None:
    async with disturbed(short) as (r, driver):
        driver.hold = True
        asking = asyncio.create_task(streamed(r))
        await r.until(lambda: len(driver.submitted) == 2)
        driver.hold = False
        assert (await asking)["text"] == TEXT
        assert [record.attempt for record in driver.submitted] == [1, 2]
        assert await r.metric('stream_resubmissions_total{reason="stalled"}') == 1


async def test_faults_upon_faults_for_many_streams(short: Path) -> None:
    """Each stream has a text of its own, so that a token in the wrong stream would show."""

    def answer(record: StreamRecord) -> list[int]:
        return [*ids_of(f"<{record.params.seed}>" * 12), EOS]

    async with rig(short) as r:
        driver = r.driver(answer, pace_s=0.005)
        r.control.say([driver.route()], [view()])
        asking = [asyncio.create_task(streamed(r, seed=seed)) for seed in range(10, 26)]
        for n in range(2, 6):
            await r.until(lambda d=driver: len(d.submitted) >= len(asking))
            await asyncio.sleep(0.03)
            driver.withheld = {n, 5 * n}
            driver.die()
            r.control.say([], [view(InstanceState.RECOVERING)])
            driver = r.driver(answer, epoch=Epoch(1, n), pace_s=0.005)
            r.control.say([driver.route()], [view()])
        for seed, task in enumerate(asking, 10):
            got = await task
            assert got["text"] == f"<{seed}>" * 12
            assert got["reason"] == "stop"


async def test_a_stream_whose_instance_was_deleted_is_told(short: Path) -> None:
    async with disturbed(short) as (r, driver):
        driver.die_at = 10
        asking = asyncio.create_task(streamed(r))
        await driver.dead.wait()
        r.control.say([], [])
        with pytest.raises(openai.APIError, match="deleted"):
            await asking


async def test_comments_fill_the_pause(short: Path) -> None:
    async with rig(short, msgspec.structs.replace(QUICK, keepalive_s=0.05)) as r:
        driver = r.serve(say(TEXT), pace_s=0.003)
        driver.die_at = 10
        body = {"model": MODEL, "messages": HI, "stream": True}
        text = ""
        async with r.http.stream("POST", "/v1/chat/completions", json=body) as response:
            async for piece in response.aiter_text():
                text += piece
                if text.count(": keep-alive\n\n") == 3 and driver.dead.is_set():
                    driver = await next_epoch(r)
        assert "error" not in text
        assert text.endswith("data: [DONE]\n\n")


async def test_a_stream_opens_with_its_first_token(short: Path) -> None:
    """Until then a line of other numerics may take it."""
    async with rig(short, msgspec.structs.replace(QUICK, keepalive_s=0.05)) as r:
        driver = r.serve(say(TEXT))
        driver.hold = True
        body = {"model": MODEL, "messages": HI, "stream": True}
        fingerprints: set[str] = set()
        async with r.http.stream("POST", "/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line == ": keep-alive" and not driver.dead.is_set():
                    driver.die()
                    await next_epoch(r, numerics_id="n-2")
                elif line.startswith("data: {"):
                    fingerprints.add(json.loads(line[6:])["system_fingerprint"])
        assert fingerprints == {"n-2"}
