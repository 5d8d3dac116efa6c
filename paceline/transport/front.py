"""A driver's front door, and the gateway's end of it. Neither knows what a stream is.

An empty message is a ping, and is answered with one: silence of the driver's own loop is seen,
not only that of its host.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import msgspec
import structlog
import zmq
import zmq.asyncio

from paceline.transport.authenticator import Authenticator, fresh_domain
from paceline.transport.errors import UNREADABLE, LinkFull
from paceline.transport.keys import KeyPair
from paceline.transport.sockets import (
    DRAIN_LIMIT,
    Context,
    Socket,
    bind_fresh,
    bound,
    connect,
    guard,
    has_message,
    ipc_path,
    made,
    mind,
    receive_parts,
    retire,
    send_now,
    send_parts,
    unlock,
)
from paceline.transport.sparing import Sparing
from paceline.types.errors import TransportError
from paceline.types.ids import Epoch
from paceline.types.stream import FromDriver, ToDriver

FRONT_MESSAGES = 512
MAX_MESSAGE_BYTES = 16 * 2**20
PING = b""
PING_S = 0.5

log = structlog.get_logger(__name__)

_encoder = msgspec.msgpack.Encoder()


class FrontServer:
    """Takes messages of admitted gateways, and answers them; never waits for a slow one."""

    def __init__(
        self, socket: Socket, address: str, authenticator: Authenticator, domain: str
    ) -> None:
        self.socket = socket
        self.address = address
        self.malformed = 0
        """Messages that could not be read, or came from a key that is no longer admitted."""
        self._authenticator = authenticator
        self._domain = domain
        self._decoder = msgspec.msgpack.Decoder(ToDriver)
        self._sparing = Sparing()

    @classmethod
    def open(
        cls,
        epoch: Epoch,
        *,
        directory: Path | None = None,
        host: str | None = None,
        keys: KeyPair,
        messages: int = FRONT_MESSAGES,
        context: Context | None = None,
    ) -> FrontServer:
        """Bound, and closed to everyone until `admit`. Raises AddressUnusable."""
        context = context or zmq.Context.instance()
        domain = fresh_domain(f"front-{epoch}")
        authenticator = Authenticator.of(context)
        with made(context, zmq.ROUTER) as socket:
            bound(socket, messages=messages, message_bytes=MAX_MESSAGE_BYTES)
            guard(socket, keys, domain)
            socket.router_mandatory = True
            socket.router_handover = True
            address = bind_fresh(socket, "front", directory=directory, host=host)
        authenticator.admit(domain, ())
        return cls(socket, address, authenticator, domain)

    def admit(self, public_keys: Iterable[str]) -> None:
        """Replaces the set of gateway keys (Z85); one that is gone is not heard any more."""
        self._authenticator.admit(self._domain, public_keys)

    def receive(self) -> list[tuple[bytes, ToDriver]]:
        """What is there, as (peer, message), up to a bound. Never waits, never raises for what a
        peer sent."""
        taken: list[tuple[bytes, ToDriver]] = []
        for _ in range(DRAIN_LIMIT):
            if not has_message(self.socket):
                break
            parts = receive_parts(self.socket)
            message = self._read(parts)
            if message is not None:
                taken.append((parts[0].bytes, message))
        return taken

    def send(self, peer: bytes, message: FromDriver) -> bool:
        """False: the peer is gone, or reads too slowly and its queue is full."""
        return self._put(peer, _encoder.encode(message))

    def close(self) -> None:
        """Safe to repeat."""
        self._authenticator.forget(self._domain)
        retire(self.socket, self.address)

    def __enter__(self) -> FrontServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self, peer: bytes, payload: bytes) -> bool:
        try:
            send_parts(self.socket, (peer, payload))
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise TransportError(f"the front door's socket failed: {error.strerror}") from error
        return True

    def _read(self, parts: list[zmq.Frame]) -> ToDriver | None:
        """The message, or None for pings and for what no admitted gateway should send."""
        key = str(parts[-1].get("User-Id"))
        if not self._authenticator.admits(self._domain, key):
            self._drop(key, "its key is no longer admitted")
        elif len(parts) != 2:
            self._drop(key, f"it has {len(parts)} parts")
        elif not len(parts[1].buffer):
            self._put(parts[0].bytes, PING)
        else:
            try:
                return cast(ToDriver, self._decoder.decode(parts[1].buffer))
            except UNREADABLE as error:
                self._drop(key, str(error))
        return None

    def _drop(self, key: str, reason: str) -> None:
        self.malformed += 1
        if self._sparing.may_say((key, reason)):
            log.warning("message dropped", key=key, reason=reason, count=self.malformed)


class AsyncFrontClient:
    """A gateway's link to one driver in one epoch."""

    def __init__(
        self,
        address: str,
        server_key: str,
        keys: KeyPair,
        *,
        context: zmq.asyncio.Context | None = None,
        clock: Callable[[], float] = time.monotonic,
        ping_s: float = PING_S,
    ) -> None:
        """Connects in the background, and again until `close`.

        Raises AddressUnusable for an address or a key that is none.
        """
        self.address = address
        self._clock = clock
        self._heard_at = clock()
        self._decoder = msgspec.msgpack.Decoder(FromDriver)
        with made(context or zmq.asyncio.Context.instance(), zmq.DEALER) as self.socket:
            bound(self.socket, messages=FRONT_MESSAGES, message_bytes=MAX_MESSAGE_BYTES)
            # A submission may be handed over before the handshake is done.
            self.socket.immediate = False
            self.socket.rcvtimeo = round(ping_s * 1000)
            # The driver knows a gateway by this name, also after a reconnection.
            self.socket.routing_id = secrets.token_hex(8).encode("ascii")
            unlock(self.socket, keys, server_key)
            if ipc_path(address) is None:
                mind(self.socket)
            connect(self.socket, address)

    @property
    def silence(self) -> float:
        """Seconds since anything came from the driver, or since the beginning.

        True as long as somebody is in `receive`, which pings while it waits.
        """
        return self._clock() - self._heard_at

    def send(self, message: ToDriver) -> None:
        """Never waits. Raises LinkFull: the driver is gone, or has not read for long."""
        if not send_now(self.socket, _encoder.encode(message)):
            raise LinkFull(f"the driver at {self.address} takes no messages; its queue is full")

    async def receive(self) -> FromDriver:
        """The next message; waits for it without end, so give up by `silence`.

        Raises TransportError for a message that cannot be read, and when `close` ends the wait.
        """
        while not self.socket.closed:
            payload = await self._hear()
            if payload is None:
                send_now(self.socket, PING)
                continue
            self._heard_at = self._clock()
            if payload != PING:
                return self._read(payload)
        raise TransportError(f"the link to the driver at {self.address} was closed")

    def close(self) -> None:
        """Ends a `receive` that waits. Safe to repeat."""
        self.socket.close(linger=0)

    async def _hear(self) -> bytes | None:
        """What came; None when nothing did for a while, or the socket was closed."""
        try:
            return await self.socket.recv()
        except zmq.Again:
            return None
        except asyncio.CancelledError:
            # Closing a socket cancels its futures; that is no order to the task that waits.
            task = asyncio.current_task()
            if self.socket.closed and task is not None and not task.cancelling():
                return None
            raise

    def _read(self, payload: bytes) -> FromDriver:
        try:
            return cast(FromDriver, self._decoder.decode(payload))
        except UNREADABLE as error:
            raise TransportError(f"the driver at {self.address} sent nonsense: {error}") from error
