"""The gateway's port: held by the parent, so that it stays ours while the gateway restarts."""

from __future__ import annotations

import errno
import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from paceline.types.errors import InvalidRequest, Unavailable


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """Where a gateway listens, and what it asks of its clients."""

    host: str
    port: int
    api_key: str | None
    """None: nothing."""


_REACHED_AT = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where a gateway that is bound everywhere is reached from here."""


@contextmanager
def held_port(host: str, port: int) -> Iterator[int]:
    """Binds the port (0: any free one) without listening, and gives its number.

    SO_REUSEADDR lets the gateway bind and listen beside us; others are kept from it. Raises
    Unavailable if another process has it, InvalidRequest if the address is not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InvalidRequest(f"{host!r} is no address to listen at: {error}") from error
    with socket.socket(family, kind, protocol) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Unavailable(
                    f"port {port} of {host} is in use; choose another with --port, or 0 for any"
                ) from error
            raise InvalidRequest(f"cannot listen at {host}, port {port}: {error}") from error
        yield held.getsockname()[1]


def url_of(host: str, port: int) -> str:
    """The address for a client on this machine."""
    reached = _REACHED_AT.get(host, host)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def is_healthy(host: str, port: int, timeout_s: float) -> bool:
    """Whether GET /health answers 200 within the time."""
    connection = http.client.HTTPConnection(_REACHED_AT.get(host, host), port, timeout=timeout_s)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
