from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import structlog
import zmq
import zmq.asyncio

from paceline.transport.errors import AddressUnusable, LinkFull
from paceline.transport.front import FRONT_MESSAGES, AsyncFrontClient, FrontServer
from paceline.transport.keys import KeyPair
from paceline.transport.sockets import unlock
from paceline.types.errors import TransportError
from paceline.types.ids import Epoch, StreamId
from paceline.types.stream import (
    Cancel,
    Closing,
    FromDriver,
    Renew,
    SamplingParams,
    StreamRecord,
    Submit,
    ToDriver,
    Token,
    Tokens,
)

Context = zmq.Context[zmq.Socket[bytes]]

SUBMIT = Submit(
    StreamRecord(
        stream_id=StreamId("s1"),
        attempt=1,
        prompt_ids=(1, 2, 3),
        params=SamplingParams(max_tokens=5, seed=1, logit_bias={7: -1.0}),
    )
)
TOKENS = Tokens((Token(StreamId("s1"), 1, 0, 42, -0.5, ((42, -0.5),)),))

DRIVER, GATEWAY = KeyPair.fresh(), KeyPair.fresh()


@pytest.fixture(params=["ipc", "tcp"])
def server(
    request: pytest.FixtureRequest, context: Context, runtime: Path
) -> Iterator[FrontServer]:
    directory, host = (runtime, None) if request.param == "ipc" else (None, "127.0.0.1")
    with FrontServer.open(
        Epoch(1, 1), directory=directory, host=host, keys=DRIVER, messages=8, context=context
    ) as server:
        server.admit([GATEWAY.public])
        yield server
    assert list(runtime.iterdir()) == []


def run(address: str, use: Callable[[AsyncFrontClient], Awaitable[None]]) -> None:
    async def inside() -> None:
        context = zmq.asyncio.Context()
        client = AsyncFrontClient(address, DRIVER.public, GATEWAY, context=context, ping_s=0.05)
        try:
            await asyncio.wait_for(use(client), 15)
        finally:
            client.close()
            context.term()

    asyncio.run(inside())


async def heard(server: FrontServer) -> tuple[bytes, ToDriver]:
    await until(lambda: bool(server.socket.poll(0)))
    taken = server.receive()
    assert len(taken) == 1
    return taken[0]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for happens in other threads
        await asyncio.sleep(0.005)


async def serving(server: FrontServer) -> None:
    """A driver's loop that has nothing to say."""
    while True:
        server.receive()
        await asyncio.sleep(0.005)


def test_streams_go_in_and_tokens_come_out(server: FrontServer) -> None:
    async def use(client: AsyncFrontClient) -> None:
        client.send(SUBMIT)
        peer, message = await heard(server)
        assert message == SUBMIT
        assert server.send(peer, TOKENS)
        assert await client.receive() == TOKENS
        client.send(Cancel(StreamId("s1"), 1))
        assert await heard(server) == (peer, Cancel(StreamId("s1"), 1))
        assert server.send(peer, Closing("the epoch ended"))
        assert await client.receive() == Closing("the epoch ended")

    run(server.address, use)


def test_a_silent_driver_answers_pings(server: FrontServer) -> None:
    async def use(client: AsyncFrontClient) -> None:
        began = time.monotonic()
        driver = asyncio.create_task(serving(server))
        receiving = asyncio.create_task(client.receive())
        await until(lambda: client.silence < time.monotonic() - began - 0.1)
        driver.cancel()
        await until(lambda: client.silence > 0.5)
        assert not receiving.done()
        receiving.cancel()
        assert server.receive() == [], "pings are no messages"

    run(server.address, use)


def test_a_gateway_that_does_not_read_holds_nobody_up(server: FrontServer) -> None:
    big = Closing("x" * 50_000)

    async def use(client: AsyncFrontClient) -> None:
        client.send(SUBMIT)
        peer, _ = await heard(server)
        sent, deadline = 0, time.monotonic() + 10
        while server.send(peer, big):
            sent += 1
            assert time.monotonic() < deadline
            assert sent < 2000
        for _ in range(sent):
            assert await client.receive() == big

    run(server.address, use)


def test_a_driver_that_does_not_read_fills_up(runtime: Path) -> None:
    async def use(client: AsyncFrontClient) -> None:
        for _ in range(FRONT_MESSAGES):
            client.send(SUBMIT)
        with pytest.raises(LinkFull, match="takes no messages"):
            client.send(SUBMIT)

    run(f"ipc://{runtime}/nobody", use)


def test_a_gateway_that_is_gone(server: FrontServer) -> None:
    peers: list[bytes] = []

    async def use(client: AsyncFrontClient) -> None:
        client.send(SUBMIT)
        peers.append((await heard(server))[0])

    run(server.address, use)
    deadline = time.monotonic() + 10
    while server.send(peers[0], TOKENS):
        assert time.monotonic() < deadline
    assert not server.send(b"nobody", TOKENS)


def test_strangers_do_not_get_in(server: FrontServer) -> None:
    server.admit([KeyPair.fresh().public])

    async def use(client: AsyncFrontClient) -> None:
        client.send(SUBMIT)
        await asyncio.sleep(0.3)
        assert server.receive() == []
        server.admit([GATEWAY.public])
        assert (await heard(server))[1] == SUBMIT

    run(server.address, use)


def test_a_key_that_is_taken_back_is_not_heard_any_more(server: FrontServer) -> None:
    async def use(client: AsyncFrontClient) -> None:
        client.send(SUBMIT)
        await heard(server)
        server.admit([])
        client.send(Renew(()))
        await until(lambda: server.receive() == [] and server.malformed > 0)

    run(server.address, use)


def test_nonsense_is_counted_and_named_once(server: FrontServer, context: Context) -> None:
    nonsense = [
        [b"\xc1"],
        [b"two", b"parts"],
        [msgspec.msgpack.encode({"type": "coup"})],
        [b"\x81\xa1a" + b"\x91" * 10_000 + b"\xc0"],
    ]
    with structlog.testing.capture_logs() as logs, context.socket(zmq.DEALER) as peer:
        peer.linger = 0
        unlock(peer, GATEWAY, DRIVER.public)
        peer.connect(server.address)
        for parts in nonsense * 2:
            peer.send_multipart(parts)
        peer.send(msgspec.msgpack.encode(SUBMIT))
        taken: list[tuple[bytes, ToDriver]] = []
        while not taken:
            assert server.socket.poll(10_000)
            taken = server.receive()
    assert [message for _, message in taken] == [SUBMIT]
    assert server.malformed == 2 * len(nonsense)
    assert [entry["key"] for entry in logs] == [GATEWAY.public] * len(nonsense)


def test_nonsense_from_a_driver_is_a_typed_error(server: FrontServer) -> None:
    class Coup(msgspec.Struct, tag="coup"):
        pass

    async def use(client: AsyncFrontClient) -> None:
        client.send(SUBMIT)
        peer, _ = await heard(server)
        server.send(peer, Coup())  # type: ignore[arg-type]
        server.send(peer, TOKENS)
        with pytest.raises(TransportError, match="sent nonsense"):
            await client.receive()
        assert await client.receive() == TOKENS

    run(server.address, use)


def test_closing_ends_a_wait(server: FrontServer) -> None:
    async def use(client: AsyncFrontClient) -> None:
        receiving: asyncio.Task[FromDriver] = asyncio.create_task(client.receive())
        await asyncio.sleep(0.1)
        client.close()
        client.close()
        for _ in range(2):
            with pytest.raises(TransportError, match="was closed"):
                await receiving
            receiving = asyncio.create_task(client.receive())
        receiving.cancel()
        with pytest.raises(TransportError):
            client.send(SUBMIT)

    run(server.address, use)


@pytest.mark.parametrize(
    ("address", "key", "sentence"),
    [
        ("", DRIVER.public, "cannot connect to ''"),
        ("ipc:///tmp/a", "no key", "'no key' is no CURVE key"),
    ],
    ids=["no address", "no key"],
)
def test_a_route_that_is_none(address: str, key: str, sentence: str) -> None:
    context = zmq.asyncio.Context()
    with pytest.raises(AddressUnusable, match=sentence):
        AsyncFrontClient(address, key, GATEWAY, context=context)
    context.term()
