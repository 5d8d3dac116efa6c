"""The gateway's end of the control path, on asyncio."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from typing import Any

import msgspec
import structlog
import zmq
import zmq.asyncio

from paceline.transport.answers import error_of
from paceline.transport.control import Malformed, reach, read
from paceline.transport.membership import Membership
from paceline.transport.sockets import made, send_now
from paceline.types.control import Answer, Ask, GatewayBeat, Routes, ToController, ToGateway
from paceline.types.errors import DeadlineExceeded, Unavailable

MAX_ASKS = 256
SEND_AGAIN_S = 0.05

log = structlog.get_logger(__name__)

_encoder = msgspec.msgpack.Encoder()


class AsyncControlClient:
    """Use as `async with`: a task inside reads the socket as long as the block lasts.

    Connects in the background, for ever. Answers go to who asked; of the routes only the newest
    are kept, since they are the whole truth.
    """

    def __init__(
        self,
        address: str,
        identity: str,
        membership: Membership,
        *,
        context: zmq.asyncio.Context | None = None,
    ) -> None:
        with made(context or zmq.asyncio.Context.instance(), zmq.DEALER) as self.socket:
            reach(self.socket, address, identity, membership)
        self._decoder: msgspec.msgpack.Decoder[ToGateway] = msgspec.msgpack.Decoder(ToGateway)
        # Starts anywhere, so that an answer to a predecessor of the same name meets no question.
        self._numbers = itertools.count(secrets.randbits(40))
        self._asks: dict[int, asyncio.Future[Answer]] = {}
        self._routes: asyncio.Queue[Routes] = asyncio.Queue(maxsize=1)
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> AsyncControlClient:
        self._reader = asyncio.create_task(self._read_on(), name="control reader")
        self._reader.add_done_callback(_tell_why)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def receive(self) -> Routes:
        """The newest routes, once; waits for the next ones if these were taken already."""
        return await self._routes.get()

    def send_beat(self, beat: GatewayBeat) -> bool:
        """False: dropped, because the controller is not there or does not take messages."""
        return self._put(beat)

    async def ask(self, verb: str, body: dict[str, Any], timeout_s: float) -> Any:
        """The controller's answer to a question or order.

        Raises what the controller answered (InvalidRequest, NotFound, …), DeadlineExceeded if it
        did not answer, Unavailable if too many questions are open.
        """
        if len(self._asks) >= MAX_ASKS:
            raise Unavailable(f"{MAX_ASKS} questions to the controller are open; try again later")
        ask = Ask(number=next(self._numbers), verb=verb, body=body)
        future = self._asks[ask.number] = asyncio.get_running_loop().create_future()
        reached = False
        try:
            async with asyncio.timeout(timeout_s):
                await self._reach(ask, future)
                reached = True
                answer = await future
        except TimeoutError:
            raise DeadlineExceeded(_sentence(verb, timeout_s, reached)) from None
        finally:
            del self._asks[ask.number]
        if answer.error:
            raise error_of(answer)
        return answer.body

    async def close(self) -> None:
        """Safe to repeat; questions that are open end with Unavailable."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        for future in self._asks.values():
            if not future.done():
                future.set_exception(Unavailable("this gateway is closing"))
        self.socket.close(linger=0)

    def _put(self, message: ToController) -> bool:
        return send_now(self.socket, _encoder.encode(message))

    async def _reach(self, ask: Ask, future: asyncio.Future[Answer]) -> None:
        while not (future.done() or self._put(ask)):  # noqa: ASYNC110 - no event tells that a controller came
            await asyncio.sleep(SEND_AGAIN_S)

    async def _read_on(self) -> None:
        while True:
            message = b"".join(await self.socket.recv_multipart())
            try:
                self._take(message)
            except Exception:  # a bug costs a message: deaf to the controller, a gateway is no use
                log.exception("message failed", peer="controller")

    def _take(self, message: bytes) -> None:
        match read(self._decoder, message):
            case Answer() as answer:
                future = self._asks.get(answer.number)
                if future is not None and not future.done():
                    future.set_result(answer)
            case Routes() as routes:
                if self._routes.full():
                    self._routes.get_nowait()
                self._routes.put_nowait(routes)
            case Malformed(reason=reason):
                log.warning("message dropped", peer="controller", reason=reason)


def _tell_why(reader: asyncio.Task[None]) -> None:
    """Nobody awaits it; questions end at their deadlines."""
    if not reader.cancelled() and (error := reader.exception()) is not None:
        log.error("control reader ended", exc_info=error)


def _sentence(verb: str, timeout_s: float, reached: bool) -> str:
    if not reached:
        return (
            f"the controller was out of reach for {timeout_s:g} s and never got {verb!r}; "
            "it is restarted by itself: try again"
        )
    return (
        f"the controller did not answer {verb!r} within {timeout_s:g} s; it may still be done: "
        "look with `paceline status` before you try again"
    )
