from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq.asyncio
from structlog.testing import capture_logs

from paceline.transport import control_async
from paceline.transport.control import ControlServer
from paceline.transport.control_async import MAX_ASKS, AsyncControlClient
from paceline.transport.membership import Membership
from paceline.types.control import Answer, Ask, GatewayBeat, Routes
from paceline.types.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    PacelineError,
    Unavailable,
)
from paceline.types.facts import GatewayFacts
from paceline.types.ids import GatewayId

BEAT = GatewayBeat(GatewayFacts(gateway_id=GatewayId("g1"), pid=1, url="http://h", public_key="k"))
NAME = "gateway:g1"
OURS = Membership.fresh()


def routes(term: int) -> Routes:
    return Routes(routes=(), instances=(), term=term)


@pytest.fixture
def address(runtime: Path) -> str:
    return f"ipc://{runtime / 'control'}"


@contextmanager
def controller(
    address: str, answer: Callable[[Ask], Answer | None], greet: tuple[Any, ...] = ()
) -> Iterator[list[object]]:
    """Serves in a thread; greets who beats; gives the list of what it heard."""
    heard: list[object] = []
    ended = threading.Event()
    server = ControlServer(address, OURS)

    def serve() -> None:
        while not ended.is_set():
            for peer, message in server.receive(0.05):
                heard.append(message)
                reply = answer(message) if isinstance(message, Ask) else None
                for out in (reply,) if reply else greet if message == BEAT else ():
                    server.send(peer, out)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield heard
    finally:
        ended.set()
        server.wake()
        thread.join()
        server.close()


def run(address: str, use: Callable[[AsyncControlClient], Awaitable[None]]) -> None:
    async def inside() -> None:
        context = zmq.asyncio.Context()
        async with AsyncControlClient(address, NAME, OURS, context=context) as client:
            await asyncio.wait_for(use(client), 15)
        context.term()

    asyncio.run(inside())


async def beaten(client: AsyncControlClient) -> None:
    while not client.send_beat(BEAT):  # noqa: ASYNC110 - no event tells that a controller came
        await asyncio.sleep(0.01)


async def answered(client: AsyncControlClient) -> None:
    """A question may be lost together with the controller it was on its way to."""
    while True:
        with contextlib.suppress(DeadlineExceeded):
            assert await client.ask("status", {}, 1.0) == ["status", {}]
            return


def echo(ask: Ask) -> Answer:
    return Answer(number=ask.number, body=[ask.verb, ask.body])


def test_questions_are_answered_each_with_its_own(address: str) -> None:
    async def use(client: AsyncControlClient) -> None:
        answers = await asyncio.gather(
            *(client.ask("instances.get", {"id": str(i)}, 10.0) for i in range(20))
        )
        assert answers == [["instances.get", {"id": str(i)}] for i in range(20)]

    with controller(address, echo):
        run(address, use)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("invalid_request", InvalidRequest),
        ("not_found", NotFound),
        ("unavailable", Unavailable),
        ("something_new", PacelineError),
    ],
)
def test_errors_come_back_by_their_code(
    address: str, code: str, error: type[PacelineError]
) -> None:
    async def use(client: AsyncControlClient) -> None:
        with pytest.raises(error, match="no such thing") as raised:
            await client.ask("instances.get", {}, 10.0)
        assert type(raised.value) is error

    def answer(ask: Ask) -> Answer:
        return Answer(number=ask.number, error=code, body={"message": "no such thing"})

    with controller(address, answer):
        run(address, use)


def test_a_controller_that_is_not_there(address: str) -> None:
    async def use(client: AsyncControlClient) -> None:
        assert not client.send_beat(BEAT)
        with pytest.raises(DeadlineExceeded, match=r"out of reach for 0\.2 s and never got 'plan'"):
            await client.ask("plan", {}, 0.2)

    run(address, use)


def test_a_controller_that_comes_in_time_is_asked(address: str) -> None:
    async def use(client: AsyncControlClient) -> None:
        asked = asyncio.create_task(client.ask("status", {}, 10.0))
        await asyncio.sleep(0.2)
        with controller(address, echo):
            assert await asked == ["status", {}]

    run(address, use)


def test_a_controller_that_does_not_answer(address: str) -> None:
    late: list[Ask] = []

    def answer(ask: Ask) -> Answer | None:
        if ask.verb == "slow":
            late.append(ask)
            return None
        return Answer(number=ask.number, body=ask.number)

    async def use(client: AsyncControlClient) -> None:
        with pytest.raises(DeadlineExceeded, match=r"did not answer 'slow'.*may still be done"):
            await client.ask("slow", {}, 0.5)
        assert await client.ask("quick", {}, 10.0) == late[0].number + 1

    with controller(address, answer):
        run(address, use)


def test_a_message_that_meets_a_bug_costs_that_message(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, bugs = control_async.read, [ZeroDivisionError(), ZeroDivisionError()]

    def faulty(decoder: msgspec.msgpack.Decoder[Any], message: bytes) -> Any:
        if bugs:
            raise bugs.pop()
        return whole(decoder, message)

    async def use(client: AsyncControlClient) -> None:
        for _ in range(2):
            with pytest.raises(DeadlineExceeded):
                await client.ask("status", {}, 0.5)
        assert await client.ask("status", {}, 10.0) == ["status", {}]

    monkeypatch.setattr(control_async, "read", faulty)
    with controller(address, echo):
        run(address, use)


def test_a_reader_that_ends_says_why(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: AsyncControlClient) -> None:
        raise zmq.ZMQError(zmq.ENOTSOCK)

    async def use(client: AsyncControlClient) -> None:
        with pytest.raises(DeadlineExceeded):
            await client.ask("status", {}, 0.5)

    monkeypatch.setattr(AsyncControlClient, "_read_on", broken)
    with capture_logs() as logs, controller(address, echo):
        run(address, use)
    assert [isinstance(one["exc_info"], zmq.ZMQError) for one in logs if "exc_info" in one] == [
        True
    ]


def test_an_answer_to_another_question_is_nobodys(address: str) -> None:
    async def use(client: AsyncControlClient) -> None:
        with pytest.raises(DeadlineExceeded):
            await client.ask("status", {}, 0.5)

    def answer(ask: Ask) -> Answer:
        return Answer(number=ask.number - 1, body="a predecessor's")

    with controller(address, answer):
        run(address, use)


def test_only_the_newest_routes_are_kept(address: str) -> None:
    async def use(client: AsyncControlClient) -> None:
        await beaten(client)
        await client.ask("after the greeting", {}, 10.0)
        assert await client.receive() == routes(3)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.receive(), 0.05)

    with controller(address, echo, greet=(routes(1), routes(2), routes(3))):
        run(address, use)


def test_nonsense_from_a_controller_is_passed_over(address: str) -> None:
    class Coup(msgspec.Struct, tag="coup"):
        pass

    async def use(client: AsyncControlClient) -> None:
        await beaten(client)
        assert await client.receive() == routes(1)

    with controller(address, echo, greet=(Coup(), routes(1))):
        run(address, use)


def test_a_restarted_controller_is_found_again(address: str) -> None:
    async def use(client: AsyncControlClient) -> None:
        for _ in range(3):
            with controller(address, echo):
                await answered(client)

    run(address, use)


def test_questions_are_bounded(address: str) -> None:
    async def use(client: AsyncControlClient) -> None:
        open_asks = [asyncio.create_task(client.ask("s", {}, 10.0)) for _ in range(MAX_ASKS)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="questions to the controller are open"):
            await client.ask("one too many", {}, 10.0)
        for ask in open_asks:
            ask.cancel()
        await asyncio.gather(*open_asks, return_exceptions=True)
        with pytest.raises(DeadlineExceeded):
            await client.ask("room again", {}, 0.01)

    run(address, use)


def test_closing_ends_open_questions(address: str) -> None:
    async def use(client: AsyncControlClient) -> None:
        ask = asyncio.create_task(client.ask("status", {}, 60.0))
        began = time.monotonic()
        await asyncio.sleep(0.2)
        await client.close()
        await client.close()
        with pytest.raises(Unavailable, match="closing"):
            await ask
        assert time.monotonic() - began < 30

    with controller(address, lambda ask: None):
        run(address, use)
