"""Connections as the gateway bears them: so many, and each has so long to say what it wants."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from paceline.gateway.metrics import Metrics
from paceline.gateway.settings import Settings
from paceline.process.logs import get_logger
from paceline.transport.sparing import Sparing

log = get_logger(__name__)


class Crowd:
    """The open connections of one gateway. When there are too many, the one that has waited
    longest without a request makes room: who opens many and says nothing keeps nobody out."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.head_s = settings.head_s
        self._limit = settings.max_connections
        self._metrics = metrics
        self._sparing = Sparing()
        self._open: set[Guest] = set()
        self._silent: dict[Guest, None] = {}
        """Without a request; oldest first."""

    def enter(self, guest: Guest) -> None:
        self._open.add(guest)
        self._silent[guest] = None
        if len(self._open) > self._limit:
            self.dismiss(next(iter(self._silent)), "crowded")

    def hear(self, guest: Guest, *, silent: bool) -> None:
        """Whether the guest has a request now."""
        if silent:
            self._silent.setdefault(guest)
        else:
            self._silent.pop(guest, None)

    def leave(self, guest: Guest) -> None:
        self._open.discard(guest)
        self._silent.pop(guest, None)

    def dismiss(self, guest: Guest, reason: str) -> None:
        """It counts until the transport says that it is gone: at once, with nothing sent before."""
        self.note(guest, reason)
        self._silent.pop(guest, None)
        guest.transport.abort()

    def note(self, guest: Guest, reason: str) -> None:
        self._metrics.dismissed.labels(reason).inc()
        host = guest.client[0] if guest.client else ""
        if self._sparing.may_say((reason, host)):
            log.warning("connection dismissed", reason=reason, client=host)


class Guest(H11Protocol):
    """One connection. Bytes that make no request do not lengthen its time."""

    def __init__(self, crowd: Crowd, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._crowd = crowd
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._crowd.enter(self)
        self._mind_time()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._mind_time()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._mind_time()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._crowd.leave(self)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._crowd.note(self, "malformed")
        super().send_400_response(msg)

    def _mind_time(self) -> None:
        silent = self.cycle is None or self.cycle.response_complete
        if self.transport.is_closing():
            self._stop_timer()
            return
        self._crowd.hear(self, silent=silent)
        if not silent:
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._crowd.head_s, self._time_is_over)

    def _time_is_over(self) -> None:
        self._timer = None
        if self.transport.get_write_buffer_size():
            self._mind_time()  # the last answer is still on its way
        else:
            self._crowd.dismiss(self, "slow_head")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
