"""Clients that leave, and clients that do not read."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paceline.gateway.errors import SlowClient
from paceline.gateway.sse import EventStream
from paceline.types.states import InstanceState
from tests.gateway.rig import MODEL, QUICK, Rig, ids_of, rig, say, view

pytestmark = pytest.mark.anyio


def request_bytes(**options: object) -> bytes:
    body = json.dumps({"model": MODEL, "prompt": "a", "max_tokens": 400, **options}).encode()
    return b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )


async def connect(r: Rig, receive_bytes: int | None = None) -> socket.socket:
    client = socket.socket()
    if receive_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.setblocking(False)
    port = int(r.url.rsplit(":", 1)[1])
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    return client


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("emitting", [False, True])
async def test_a_client_that_leaves_is_cancelled(short: Path, stream: bool, emitting: bool) -> None:
    async with rig(short) as r:
        driver = r.serve(lambda _: ids_of("x" * 400), pace_s=0.01)
        driver.hold = not emitting
        client = await connect(r)
        await asyncio.get_running_loop().sock_sendall(client, request_bytes(stream=stream))
        await r.until(lambda: driver.submitted)
        if stream and emitting:
            await asyncio.get_running_loop().sock_recv(client, 1000)
        client.close()
        await r.until(lambda: driver.cancelled)
        assert driver.cancelled[0].stream_id == driver.submitted[0].stream_id
        await r.until(lambda: r.gateway.drivers.streams == 0)
        assert await r.metric("num_requests_running") == 0


async def test_a_client_that_leaves_while_it_waits(short: Path) -> None:
    async with rig(short, msgspec.structs.replace(QUICK, route_wait_s=60)) as r:
        r.control.say([], [view(InstanceState.STARTING)])
        client = await connect(r)
        await asyncio.get_running_loop().sock_sendall(client, request_bytes())
        await asyncio.sleep(0.1)
        assert await r.metric("num_requests_waiting") == 1
        client.close()
        while await r.metric("num_requests_waiting"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_client_that_does_not_read_is_given_up_and_the_others_go_on(short: Path) -> None:
    async with rig(short, msgspec.structs.replace(QUICK, write_s=0.3)) as r:
        driver = r.serve(lambda _: ids_of("x" * 400), pace_s=0.001)
        client = await connect(r, receive_bytes=2048)
        greedy = request_bytes(stream=True, logprobs=20, n=64, ignore_eos=True)
        await asyncio.get_running_loop().sock_sendall(client, greedy)
        await r.until(lambda: driver.cancelled)
        assert {cancel.stream_id for cancel in driver.cancelled} <= {
            record.stream_id for record in driver.submitted
        }
        await r.until(lambda: r.gateway.drivers.streams == 0)
        # Its connection ends too, though it still keeps it open and reads nothing.
        await r.until(lambda: not r.server.server_state.connections, timeout_s=4)
        driver.answer = say("still here")
        assert (await r.chat()).json()["choices"][0]["message"]["content"] == "still here"
        client.close()


async def test_a_write_that_blocks_has_a_deadline() -> None:
    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"

    async def never(*_: object) -> Any:
        await asyncio.Event().wait()

    ended: list[BaseException | None] = []
    stream = EventStream(events(), write_s=0.01, on_close=ended.append)
    async with asyncio.timeout(5):
        await stream({"type": "http"}, never, never)
    assert isinstance(ended[0], SlowClient)


async def test_tokens_that_take_their_time_are_no_slow_client() -> None:
    async def events() -> AsyncIterator[bytes]:
        await asyncio.sleep(0.25)
        yield b"data: 1\n\n"

    async def connected() -> Any:
        await asyncio.Event().wait()

    async def take(_: object) -> None: ...

    ended: list[BaseException | None] = []
    stream = EventStream(events(), write_s=0.05, on_close=ended.append)
    await stream({"type": "http"}, connected, take)
    assert ended == [None]


async def test_too_many_tokens_wait_for_a_client(short: Path) -> None:
    settings = msgspec.structs.replace(QUICK, max_pending_tokens=20, write_s=20)
    async with rig(short, settings) as r:
        driver = r.serve(lambda _: ids_of("x" * 400))
        client = await connect(r, receive_bytes=2048)
        greedy = request_bytes(stream=True, logprobs=20, n=64)
        await asyncio.get_running_loop().sock_sendall(client, greedy)
        await r.until(lambda: driver.cancelled)
        client.close()


async def test_silence_is_filled_with_comments(short: Path) -> None:
    async with rig(short, msgspec.structs.replace(QUICK, keepalive_s=0.05)) as r:
        driver = r.serve(say("x"))
        driver.hold = True
        text = ""
        async with r.http.stream(
            "POST", "/v1/completions", json={"model": MODEL, "prompt": "a", "stream": True}
        ) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            async for piece in response.aiter_text():
                text += piece
                if text.count(": keep-alive\n\n") == 3:
                    driver.hold = False
        assert text.count(": keep-alive\n\n") >= 3
        assert text.endswith("data: [DONE]\n\n")


async def test_streams_are_renewed(short: Path) -> None:
    async with rig(short) as r:
        driver = r.serve(lambda _: ids_of("x" * 100), pace_s=0.005)
        assert (await r.chat(max_tokens=100)).status_code == 200
        assert driver.renewed
        record = driver.submitted[0]
        assert driver.renewed[0].streams == ((record.stream_id, record.attempt),)
