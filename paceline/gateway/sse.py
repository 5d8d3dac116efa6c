"""Server-sent events to clients of any speed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from paceline.gateway.alarm import Alarm
from paceline.gateway.body import while_connected
from paceline.gateway.errors import ClientGone, SlowClient


class EventStream(Response):
    """Writes what `events` gives until it ends, or the client is gone or too slow.

    `on_close` is called once, with the error that ended the stream early, if one did.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        write_s: float,
        on_close: Callable[[BaseException | None], None],
    ) -> None:
        self.background = None
        self.status_code = 200
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._events = events
        self._write_s = write_s
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error: BaseException | None = None
        try:
            await while_connected(receive, self._write(send))
        except (ClientGone, SlowClient) as left:
            error = left
        except BaseException as failure:
            error = failure
            raise
        finally:
            self._on_close(error)

    async def _write(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as limit:
                alarm = Alarm(self._write_s, lambda: limit.reschedule(loop.time()))
                start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                await alarm.over(send(start))
                async for block in self._events:
                    if block:
                        await alarm.over(send(_body(block, more=True)))
                await alarm.over(send(_body(b"", more=False)))
        except TimeoutError:
            if not limit.expired():
                raise
            raise SlowClient(f"the client took nothing for {self._write_s:g} s") from None


def _body(block: bytes, *, more: bool) -> dict[str, object]:
    return {"type": "http.response.body", "body": block, "more_body": more}
