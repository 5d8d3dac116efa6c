"""uvicorn as the gateway runs it: on a socket of ours, and stopped by us."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Generator
from functools import partial
from typing import cast

import uvicorn

from paceline.gateway.app import Gateway, create_app
from paceline.gateway.connections import Crowd, Guest
from paceline.types.errors import InvalidRequest, Unavailable

BACKLOG = 1024


def listen(host: str, port: int, write_s: float) -> socket.socket:
    """A listening socket. A client that acknowledges nothing for twice `write_s` seconds is
    disconnected by the kernel, so that no connection outlives a client that is gone.

    Raises Unavailable if the port is taken, InvalidRequest for an address that is not ours.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InvalidRequest(f"{host!r} is no address to listen at: {error}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            patience_ms = round(2000 * write_s)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Unavailable(
                f"port {port} of {host} is in use; choose another with --port, or 0 for any"
            ) from error
        raise InvalidRequest(f"cannot listen at {host}, port {port}: {error.strerror}") from error
    return listener


class Server(uvicorn.Server):
    """Ends when `should_exit` is set; whoever owns the process decides what sets it."""

    def __init__(self, gateway: Gateway) -> None:
        guest = partial(Guest, Crowd(gateway.settings, gateway.metrics))
        config = uvicorn.Config(
            create_app(gateway),
            loop="asyncio",
            http=cast(type[asyncio.Protocol], guest),
            h11_max_incomplete_event_size=gateway.settings.head_bytes,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            # Streams have had their grace by then.
            timeout_graceful_shutdown=0,
        )
        super().__init__(config)
        self._gateway = gateway

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are not uvicorn's here."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._gateway.wind_down()
        # uvicorn would log each connection it now cuts as an error with a traceback.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)
