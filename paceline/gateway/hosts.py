"""Where no key is asked for: only those who call this machine by one of its own loopback names."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Set

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from paceline.gateway.errors import ForeignHost, error_json, shape_of
from paceline.gateway.metrics import Metrics

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(:[0-9]*)?")


class LoopbackGuard:
    """A page in a browser here may have a name of its own point at this machine (DNS rebinding),
    and would then be let read the answers; but its requests bear that name."""

    def __init__(self, app: ASGIApp, host: str, metrics: Metrics) -> None:
        """`host`: where the gateway was told to listen, which clients may name too."""
        self._app = app
        self._names = {"localhost", host.lower()}
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._admits(scope):
            await self._app(scope, receive, send)
            return
        error = ForeignHost("without an API key this server answers to localhost and 127.0.0.1")
        self._metrics.rejected.labels(error.code).inc()
        headers = {"connection": "close"}
        refusal = Response(error_json(error), shape_of(error).status, headers, "application/json")
        await refusal(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        """HTTP/1.0 knows no such header, and no browser speaks it."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        return all(is_own_name(host.decode("latin-1"), self._names) for host in hosts)


def is_own_name(host: str, names: Set[str]) -> bool:
    """Whether a Host header, with or without a port, has one of the names or a loopback address."""
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].strip("[]").lower()
    try:
        return name in names or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
