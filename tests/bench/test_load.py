"""The measuring client against a whole gateway, and against servers that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from paceline.bench import Load, Target, Timeline, measure, stream
from paceline.types.errors import InvalidRequest
from tests.gateway.rig import MODEL, ids_of, rig

pytestmark = pytest.mark.anyio

TEXT = "a story of some length, told to whoever asks" * 4


def load(**changes: object) -> Load:
    given = {"model": MODEL, "concurrency": (1, 4), "tokens": 20, "prompt_words": 9, "rounds": 2}
    return Load(**{**given, **changes})  # type: ignore[arg-type]


async def test_levels_count_what_the_gateway_streamed(short: Path) -> None:
    async with rig(short) as r:
        driver = r.serve(lambda _: ids_of(TEXT), pace_s=0.002)
        told = []
        levels = await measure(Target(r.url), load(), told.append)
        assert levels == told
        assert [level.concurrency for level in levels] == [1, 4]
        assert [level.requests for level in levels] == [2, 8]
        assert [level.tokens for level in levels] == [40, 160]
        assert [level.errors for level in levels] == [0, 0]
        assert all(level.tokens_per_s > 0 for level in levels)
        assert all(0 < level.gap_p50_s <= level.gap_p99_s for level in levels)
        prompts = {record.prompt_ids[:9] for record in driver.submitted[-4:]}
        assert len(prompts) == 4, "a prompt's beginning could be reused"


async def test_refused_requests_are_errors_of_the_level(short: Path) -> None:
    async with rig(short) as r:
        r.serve(lambda _: ids_of(TEXT))
        (level,) = await measure(Target(r.url), load(model="nobody", concurrency=(3,), rounds=1))
        assert (level.requests, level.errors, level.tokens) == (3, 3, 0)
        assert level.tokens_per_s == 0
        assert "nobody" in level.first_error


@pytest.mark.parametrize("changes", [{"concurrency": ()}, {"concurrency": (0,)}, {"tokens": 0}])
async def test_a_load_that_nobody_can_make(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        await measure(Target("http://127.0.0.1:1"), load(**changes))


@asynccontextmanager
async def server(answer: bytes, *, hang: bool = False) -> AsyncIterator[Target]:
    """Answers anyone with these bytes, a few at a time."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for start in range(0, len(answer), 7):
            writer.write(answer[start : start + 7])
            await writer.drain()
        if hang:
            await asyncio.sleep(60)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Target(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    finally:
        listening.close()


async def ask(answer: bytes, *, hang: bool = False, timeout_s: float = 5.0) -> Timeline:
    async with server(answer, hang=hang) as target:
        return await stream(target, {"model": "m", "prompt": "x"}, timeout_s)


EVENTS = (
    b'data: {"choices": [{"text": "one"}]}\n\n: a comment\n\n'
    b'data: {"choices": [{"text": " two"}]}\n\n'
    b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}\n\n'
    b"data: [DONE]\n\n"
)
PLAIN = b"HTTP/1.0 200 OK\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunks(body: bytes, size: int) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    "answer", [PLAIN + EVENTS, *(CHUNKED + chunks(EVENTS, size) for size in (1, 10, 1000))]
)
async def test_an_answer_however_it_is_cut(answer: bytes) -> None:
    seen = await ask(answer)
    assert (seen.text, seen.tokens, seen.prompt_tokens, seen.error) == ("one two", 2, 5, "")
    assert len(seen.pieces) == 2
    assert seen.sent_at < seen.pieces[0] <= seen.pieces[1] == seen.ended_at


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 503 Unavailable\r\n\r\ntoo busy", "too busy"),
        (PLAIN + b'data: {"error": {"message": "it broke"}}\n\n', "it broke"),
        (PLAIN + b"data: {nonsense\n\n", "Expecting"),
        (PLAIN + b'data: {"choices": [{"text": "one"}]}\n\n', "no usage"),
        (CHUNKED + b"5\r\ndat", "ended before"),
        (CHUNKED + b"fffffffff\r\n", "chunk of"),
        (b"", "ended before"),
    ],
)
async def test_what_is_no_whole_answer_is_an_error(answer: bytes, words: str) -> None:
    seen = await ask(answer)
    assert words in seen.error
    assert seen.tokens == 0


async def test_a_stream_that_hangs_ends_at_its_deadline() -> None:
    assert "within 0.2 s" in (await ask(PLAIN + EVENTS[:30], hang=True, timeout_s=0.2)).error


async def test_nobody_listens() -> None:
    seen = await stream(Target("http://127.0.0.1:1"), {}, 5.0)
    assert seen.error
