"""Reading a request's body, bounded in size and time, and noticing when its client is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from paceline.gateway.errors import BodyTimeout, BodyTooLarge, ClientGone

T = TypeVar("T")

_DISCARD_FACTOR = 8
"""So many times the limit is read and thrown away, for a client hears us only when it has sent."""


async def read_body(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """Raises BodyTooLarge (bytes are counted as they come), BodyTimeout or ClientGone."""
    body = bytearray()
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for block in request.stream():
                size += len(block)
                if size <= max_bytes:
                    body += block
                elif size > _DISCARD_FACTOR * max_bytes:
                    break
    except TimeoutError:
        raise BodyTimeout(
            f"the body did not arrive within {timeout_s:g} s; send it again"
        ) from None
    except ClientDisconnect:
        raise ClientGone("the client closed its connection") from None
    if size > max_bytes:
        raise BodyTooLarge(f"the body is larger than {max_bytes} bytes; shorten the request")
    return bytes(body)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client closes its connection.

    Call it when the body was read. Raises ClientGone.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone("the client closed its connection")
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
