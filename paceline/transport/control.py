"""The control path: facts up, orders down, on one socket that only members of the cluster enter.

Every beat carries its sender's whole truth, so a beat that finds no room is dropped, never queued.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from socket import socketpair
from typing import Any, Generic, TypeVar, cast

import msgspec
import structlog
import zmq

from paceline.transport.authenticator import Authenticator, fresh_domain
from paceline.transport.errors import UNREADABLE, AddressUnusable, ProtocolMismatch
from paceline.transport.membership import Membership
from paceline.transport.sockets import (
    DRAIN_LIMIT,
    AnySocket,
    Context,
    Socket,
    bind,
    bound,
    connect,
    guard,
    has_message,
    ipc_path,
    made,
    mind,
    retire,
    unlock,
)
from paceline.transport.sparing import Sparing
from paceline.types.control import PROTOCOL, FromController, ToController

SERVER_MESSAGES = 128
"""Messages that wait per peer, either way."""
CLIENT_MESSAGES = 8
MAX_MESSAGE_BYTES = 8 * 2**20
TRUSTED_BYTES = -1
"""The controller sends nothing longer than MAX_MESSAGE_BYTES, so its peers need no bound; and one
would cut them off for good: libzmq does not connect again after a message that was too long."""

log = structlog.get_logger(__name__)

_encoder = msgspec.msgpack.Encoder()
Reply = TypeVar("Reply")


class _Spoken(msgspec.Struct):
    """Of any message in any version: which protocol it is of, where it says so."""

    protocol: int = PROTOCOL


class ControlServer:
    """The controller's end. Peers are known by the names they connect with; a second connection
    of a name takes over from the first."""

    def __init__(
        self,
        address: str,
        membership: Membership,
        *,
        listen: str | None = None,
        context: Context | None = None,
    ) -> None:
        """At `address`, an ipc one, and for other machines also at `listen`, tcp://HOST:PORT.

        Raises AddressUnusable. A file that a dead controller left there is replaced.
        """
        if membership.head is None:
            raise AddressUnusable("only the machine that has the head's key can be the head")
        context = context or zmq.Context.instance()
        self.address = address
        self.listen: str | None = None
        """Where other machines reach it, with its true port."""
        self.malformed = 0
        """Messages that could not be read, or are of another protocol."""
        self._authenticator = Authenticator.of(context)
        # Never forgotten, and there before the first handshake: a member who is refused for good
        # because the door is not open yet, or not any more, would never connect again.
        domain = fresh_domain("control")
        self._authenticator.admit(domain, [membership.member.public], final=True)
        with made(context, zmq.ROUTER) as self.socket:
            bound(self.socket, messages=SERVER_MESSAGES, message_bytes=MAX_MESSAGE_BYTES)
            guard(self.socket, membership.head, domain)
            self.socket.router_mandatory = True
            self.socket.router_handover = True
            bind(self.socket, address)
            if listen is not None:
                mind(self.socket)
                self.listen = bind(self.socket, listen)
        self._decoder = msgspec.msgpack.Decoder(ToController)
        self._spoken = msgspec.msgpack.Decoder(_Spoken)
        self._sparing = Sparing()
        self._alarm, self._bell = socketpair()
        self._alarm.setblocking(False)
        self._bell.setblocking(False)
        self._poller = zmq.Poller()
        self._poller.register(self.socket, zmq.POLLIN)
        self._poller.register(self._alarm, zmq.POLLIN)

    def receive(self, timeout_s: float) -> list[tuple[str, ToController]]:
        """What is there, as (peer, message), up to a bound; waits up to `timeout_s` for the first,
        or until `wake`. Never raises for what a peer sent."""
        self._poller.poll(max(0, round(timeout_s * 1000)))
        with contextlib.suppress(BlockingIOError):
            self._alarm.recv(4096)
        taken: list[tuple[str, ToController]] = []
        for _ in range(DRAIN_LIMIT):
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            peer = parts[0].decode("utf-8", "replace")
            message = self._read(peer, parts[1:])
            if message is not None:
                taken.append((peer, message))
        return taken

    def send(self, peer: str, message: FromController) -> bool:
        """False: no such peer is connected, its queue is full, or the message cannot be sent to
        anybody (it is too long, or holds what cannot be packed): that is logged."""
        kind = type(message).__name__
        try:
            payload = _encoder.encode(message)
        except (OverflowError, TypeError, ValueError) as error:
            log.error("message cannot be packed", peer=peer, kind=kind, reason=str(error))
            return False
        if len(payload) > MAX_MESSAGE_BYTES:
            log.error("message too long", peer=peer, kind=kind, length=len(payload))
            return False
        try:
            self.socket.send_multipart([peer.encode(), payload], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise
        return True

    def wake(self) -> None:
        """End a `receive` that waits; may be called from any thread and from a signal handler."""
        with contextlib.suppress(OSError):
            self._bell.send(b"!")

    def close(self) -> None:
        """Safe to repeat."""
        if self.socket.closed:
            return
        retire(self.socket, self.address)
        self._alarm.close()
        self._bell.close()

    def __enter__(self) -> ControlServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, peer: str, payload: list[bytes]) -> ToController | None:
        try:
            if len(payload) != 1:
                raise msgspec.DecodeError(f"a message has one part, this one {len(payload)}")
            protocol = self._spoken.decode(payload[0]).protocol
            if protocol != PROTOCOL:
                raise ProtocolMismatch(
                    f"it speaks control protocol {protocol}, this controller {PROTOCOL}: run the "
                    "same release of paceline on every machine"
                )
            return cast(ToController, self._decoder.decode(payload[0]))
        except (ProtocolMismatch, *UNREADABLE) as error:
            self.malformed += 1
            if self._sparing.may_say((peer, str(error))):
                log.warning("message dropped", peer=peer, reason=str(error), count=self.malformed)
            return None


class Malformed(msgspec.Struct, frozen=True):
    """An order that is none of the known ones: what could be read of it, and what is wrong."""

    raw_fields: dict[str, Any] | None
    reason: str


class ControlClient(Generic[Reply]):
    """An agent's or runner's end: connects in the background, for ever, and never waits."""

    def __init__(
        self,
        address: str,
        identity: str,
        reply_type: Any,
        membership: Membership,
        *,
        context: Context | None = None,
        watch: Callable[[Socket], None] = lambda _: None,
    ) -> None:
        """`identity`: the name the controller answers to. `reply_type`: the union of messages that
        may come. Speaks to the head of `membership` alone. `watch` is given the socket before it
        connects, to miss nothing of that."""
        with made(context or zmq.Context.instance(), zmq.DEALER) as self.socket:
            watch(self.socket)
            reach(self.socket, address, identity, membership)
        self._decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(reply_type)

    def send(self, message: ToController) -> bool:
        """False: dropped, because the controller is not there or does not take messages."""
        try:
            self.socket.send(_encoder.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> list[Reply | Malformed]:
        """What is there, up to a bound. Never waits, never raises for what came."""
        taken: list[Reply | Malformed] = []
        for _ in range(DRAIN_LIMIT):
            if not has_message(self.socket):
                break
            parts = self.socket.recv_multipart(zmq.NOBLOCK)
            message: Reply | Malformed = read(self._decoder, b"".join(parts))
            taken.append(message)
        return taken

    def close(self) -> None:
        """Safe to repeat."""
        self.socket.close(linger=0)

    def __enter__(self) -> ControlClient[Reply]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def reach(socket: AnySocket, address: str, identity: str, membership: Membership) -> None:
    """Have the socket connect to the controller, for ever. Raises AddressUnusable."""
    bound(socket, messages=CLIENT_MESSAGES, message_bytes=TRUSTED_BYTES)
    socket.routing_id = identity.encode()
    unlock(socket, membership.member, membership.head_key)
    if ipc_path(address) is None:
        mind(socket)
    connect(socket, address)


def read(decoder: msgspec.msgpack.Decoder[Reply], payload: bytes) -> Reply | Malformed:
    """The message, or what could be read of it."""
    try:
        return decoder.decode(payload)
    except UNREADABLE as error:
        return Malformed(_fields(payload), str(error))


def _fields(payload: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.msgpack.decode(payload, type=dict[str, Any])
    except UNREADABLE:
        return None
