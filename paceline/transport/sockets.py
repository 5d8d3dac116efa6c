"""Socket settings that every room's sockets share: bounds, keys, fresh addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import zmq
import zmq.asyncio

from paceline.transport.authenticator import Authenticator
from paceline.transport.errors import AddressUnusable
from paceline.transport.keys import KeyPair
from paceline.transport.watch import HANDSHAKE_S

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]
AnySocket = Socket | zmq.asyncio.Socket
S = TypeVar("S", Socket, zmq.asyncio.Socket)

RECONNECT_MS = 100
RECONNECT_MAX_MS = 1000
PING_MS = 1000
GONE_MS = 3000
"""A connection over which no answer to a ping came for so long is given up, and made anew."""
CONNECT_MS = 2000
# Arithmetic on pyzmq's own flags runs through Python's enums, several times a step.
_POLLIN, _NOBLOCK, _SNDMORE = int(zmq.POLLIN), int(zmq.NOBLOCK), int(zmq.SNDMORE)

DRAIN_LIMIT = 256
"""Messages taken from a socket in one go, so that no sender can keep a loop from going round."""


@contextmanager
def made(context: zmq.Context[S], kind: int) -> Iterator[S]:
    """A new socket to be set up in the block, closed again if that fails."""
    socket = context.socket(kind)
    try:
        yield socket
    except BaseException:
        socket.close(linger=0)
        raise


def bound(socket: AnySocket, *, messages: int, message_bytes: int) -> None:
    """Nothing queues without a limit, lingers after close, or piles up for a peer not there."""
    socket.linger = 0
    socket.sndhwm = messages
    socket.rcvhwm = messages
    socket.maxmsgsize = message_bytes
    socket.immediate = True
    socket.reconnect_ivl = RECONNECT_MS
    socket.reconnect_ivl_max = RECONNECT_MAX_MS
    socket.setsockopt(zmq.HANDSHAKE_IVL, round(HANDSHAKE_S * 1000))


def mind(socket: AnySocket, gone_ms: int = GONE_MS) -> None:
    """Over a network: notice a peer that went without a word, in either direction. TCP alone takes
    minutes, and after a pause long waits before it tries again. Only whole frames are words: where
    one takes longer than `gone_ms`, the connection never lasts."""
    socket.heartbeat_ivl = PING_MS
    socket.heartbeat_timeout = gone_ms
    socket.connect_timeout = CONNECT_MS


def guard(socket: Socket, keys: KeyPair, domain: str) -> None:
    """Be a CURVE server that only the context's authenticator can open, and that it watches."""
    socket.curve_server = True
    socket.curve_secretkey = keys.secret
    socket.zap_domain = domain.encode("ascii")
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    Authenticator.of(socket.context).watch(socket, domain)


def unlock(socket: AnySocket, keys: KeyPair, server_key: str) -> None:
    """Be a CURVE client: prove `keys` to the one who holds the secret of `server_key` (Z85).

    Raises AddressUnusable for a text that is no key.
    """
    try:
        socket.curve_serverkey = server_key.encode()
    except zmq.ZMQError as error:
        raise AddressUnusable(f"{server_key!r} is no CURVE key in Z85") from error
    socket.curve_publickey = keys.public.encode("ascii")
    socket.curve_secretkey = keys.secret


def bind_fresh(socket: Socket, name: str, *, directory: Path | None, host: str | None) -> str:
    """Bind where nobody was before, and give the address: a new ipc file in `directory`, or an
    ephemeral TCP port of `host` (a numeric address that peers can reach).

    Raises AddressUnusable.
    """
    if (directory is None) == (host is None):
        raise AddressUnusable("give either a directory (one machine) or a host (many)")
    if directory is not None:
        path = directory / f"{name}-{os.getpid()}-{secrets.token_hex(4)}"
        return bind(socket, f"ipc://{path}")
    return bind(socket, f"tcp://{_numeric(str(host))}:*")


def bind(socket: Socket, address: str) -> str:
    """Bind, and give the address that peers connect to.

    A file that a dead process left at an ipc address is replaced. Raises AddressUnusable.
    """
    path = ipc_path(address)
    if path is not None and len(os.fsencode(path)) > zmq.IPC_PATH_MAX_LEN:
        raise AddressUnusable(
            f"{path} is longer than the {zmq.IPC_PATH_MAX_LEN} bytes that a local socket's path "
            "may have: use a shorter runtime directory"
        )
    socket.ipv6 = address.startswith("tcp://[")
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise AddressUnusable(f"cannot listen on {address}: {error.strerror}") from error
    return bytes(socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode("utf-8")


def connect(socket: AnySocket, address: str) -> None:
    """Connect in the background, and again whenever the connection is lost.

    Raises AddressUnusable for a text that is no address.
    """
    socket.ipv6 = address.startswith("tcp://[")
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        raise AddressUnusable(f"cannot connect to {address!r}: {error.strerror}") from error


def has_message(socket: Socket) -> bool:
    """Whether one can be received. Asking costs a loop less than the exception that there is none.

    Raises ZMQError for a socket that is of no more use.
    """
    return bool(cast(int, socket.getsockopt(zmq.EVENTS)) & _POLLIN)


def send_parts(socket: Socket, parts: Sequence[bytes | memoryview]) -> None:
    """One message; its bytes are copied. Never waits.

    Raises ZMQError, `zmq.Again` where the socket does not take it.
    """
    for part in parts[:-1]:
        socket.send(part, _NOBLOCK | _SNDMORE)
    socket.send(parts[-1], _NOBLOCK)


def receive_parts(socket: Socket) -> list[zmq.Frame]:
    """The next message, which is there. Raises ZMQError."""
    parts = [socket.recv(_NOBLOCK, copy=False)]
    while parts[-1].more:
        parts.append(socket.recv(_NOBLOCK, copy=False))
    return parts


def send_now(socket: zmq.asyncio.Socket, payload: bytes) -> bool:
    """Whether the socket took it. Never waits, as long as nobody awaits a send of this socket."""
    sent = cast(asyncio.Future[None], socket.send(payload, zmq.NOBLOCK))
    return sent.done() and sent.exception() is None


def retire(socket: Socket, address: str) -> None:
    """Close a bound socket and remove its file, which libzmq leaves behind."""
    socket.close(linger=0)
    path = ipc_path(address)
    if path is not None:
        path.unlink(missing_ok=True)


def ipc_path(address: str) -> Path | None:
    return Path(address.removeprefix("ipc://")) if address.startswith("ipc://") else None


def leftovers(directory: Path, pid: int) -> Iterator[Path]:
    """ipc files that a process which died without a goodbye left behind."""
    return directory.glob(f"*-{pid}-????????")


def _numeric(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise AddressUnusable(f"{host!r} is no numeric IP address of this machine") from None
    if address.is_unspecified:
        raise AddressUnusable(f"{host} means every address; name the one that peers can reach")
    return f"[{host}]" if address.version == 6 else host
