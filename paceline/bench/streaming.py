"""One streamed completion over OpenAI's API, with the moment of every event.

It shares its processors with what it measures. So it does as little as it can while tokens come:
events are kept as they are and read afterwards.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec

MAX_HEAD = 2**16
MAX_LINE = 2**20
_CLOSE_S = 1.0


class Target(msgspec.Struct, frozen=True):
    """A server: `url` without a path."""

    url: str
    api_key: str | None = None


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """What a client saw, in seconds of one monotonic clock."""

    sent_at: float
    ended_at: float
    pieces: tuple[float, ...] = ()
    """When each event with text or tokens came."""
    prompt_tokens: int = 0
    tokens: int = 0
    """Generated ones, as the server counts them."""
    text: str = ""
    error: str = ""
    """Why there is no whole answer; the rest counts for nothing then."""

    @property
    def first_s(self) -> float:
        """Time to the first token."""
        return self.pieces[0] - self.sent_at

    @property
    def gaps_s(self) -> list[float]:
        return [b - a for a, b in zip(self.pieces, self.pieces[1:], strict=False)]


_NONSENSE = (asyncio.LimitOverrunError, LookupError, TypeError, AttributeError)
"""What reading an answer of any other shape raises."""


async def stream(target: Target, body: dict[str, Any], timeout_s: float) -> Timeline:
    """POST /v1/completions with streaming on, to its end. Never raises for what a server does."""
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    events: list[tuple[float, bytes]] = []
    sent_at = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            async for line in _lines(target, asked):
                events.append((time.monotonic(), line))
        return _read(sent_at, events)
    except TimeoutError:
        error = f"no whole answer within {timeout_s:g} s"
    except asyncio.IncompleteReadError:
        error = "the connection ended before the answer did"
    except (OSError, ValueError, *_NONSENSE) as failure:
        error = str(failure) or type(failure).__name__
    return Timeline(sent_at=sent_at, ended_at=time.monotonic(), error=error)


def _read(sent_at: float, events: list[tuple[float, bytes]]) -> Timeline:
    """Raises ValueError for an answer that is none."""
    pieces: list[float] = []
    text: list[str] = []
    usage: dict[str, int] = {}
    for at, line in events:
        event = json.loads(line)
        if "error" in event:
            raise ValueError(str(event["error"]))
        usage = event.get("usage") or usage
        for choice in event.get("choices", ()):
            text.append(choice.get("text") or "")
            if choice.get("text") or choice.get("token_ids"):
                pieces.append(at)
    tokens = usage.get("completion_tokens", 0)
    if not pieces or not tokens:
        raise ValueError("the answer has no tokens, or no usage that counts them")
    return Timeline(
        sent_at=sent_at,
        ended_at=pieces[-1],
        pieces=tuple(pieces),
        prompt_tokens=usage.get("prompt_tokens", 0),
        tokens=tokens,
        text="".join(text),
    )


async def _lines(target: Target, body: dict[str, Any]) -> AsyncIterator[bytes]:
    """The data of each server-sent event, as it comes."""
    parts = urlsplit(target.url)
    context = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if context else 80)
    reader, writer = await asyncio.open_connection(
        parts.hostname, port, ssl=context, limit=MAX_LINE
    )
    try:
        writer.write(_request(parts.netloc, target.api_key, json.dumps(body).encode()))
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.split(b" ", 2)[1].startswith(b"200"):
            raise ValueError((await reader.read(MAX_HEAD)).decode(errors="replace").strip())
        rest = b""
        async for block in _blocks(reader, chunked=b"chunked" in head.lower()):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                data = line.removeprefix(b"data:").strip()
                if data == b"[DONE]":
                    return
                if line.startswith(b"data:"):
                    yield data
            if len(rest) > MAX_LINE:
                raise ValueError(f"a line of more than {MAX_LINE} bytes")
    finally:
        writer.close()
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(writer.wait_closed(), _CLOSE_S)


def _request(host: str, api_key: str | None, body: bytes) -> bytes:
    head = [
        "POST /v1/completions HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *([f"Authorization: Bearer {api_key}"] if api_key else []),
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


async def _blocks(reader: asyncio.StreamReader, *, chunked: bool) -> AsyncIterator[bytes]:
    """The body as it comes, without the framing of RFC 9112, section 7.1."""
    while not chunked:
        block = await reader.read(MAX_HEAD)
        if not block:
            return
        yield block
    while size := int((await reader.readline()).split(b";")[0], 16):
        if size > MAX_LINE:
            raise ValueError(f"a chunk of {size} bytes")
        yield (await reader.readexactly(size + 2))[:-2]
