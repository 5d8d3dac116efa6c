"""Strangers at the HTTP port: nothing changes but a counter and a log line, and clients go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import Mock
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from fastapi.routing import APIRoute

from paceline.gateway.connections import Crowd
from paceline.gateway.hosts import is_own_name
from paceline.gateway.metrics import Metrics
from tests.gateway.rig import MODEL, QUICK, Rig, rig, say, view

pytestmark = pytest.mark.anyio

KEY = "sesame"
KEYED = msgspec.structs.replace(QUICK, api_key=KEY)
WITH_KEY = {"Authorization": f"Bearer {KEY}"}
HASTY = msgspec.structs.replace(QUICK, head_s=0.4)
PROMPT = {"model": MODEL, "prompt": "hi"}


async def asked(r: Rig, head: bytes, timeout_s: float = 10.0) -> bytes:
    """What comes back for these bytes, as they are, until the gateway hangs up."""
    async with raw(r) as (reader, writer):
        writer.write(head)
        async with asyncio.timeout(timeout_s):
            return await until_hung_up(reader)


async def until_hung_up(reader: asyncio.StreamReader) -> bytes:
    # The kernel resets, and does not close, a connection with bytes that the gateway never read.
    try:
        return await reader.read()
    except ConnectionError:
        return b""


@asynccontextmanager
async def raw(r: Rig) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    place = urlsplit(r.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def served(r: Rig) -> None:
    response = await r.http.post("/v1/completions", json=PROMPT, headers=WITH_KEY)
    assert response.json()["choices"][0]["text"] == "x"


async def counted(r: Rig, name: str, label: str) -> float:
    text = (await r.http.get("/metrics", headers=WITH_KEY)).text
    start = f"paceline_{name}_total{{{label}}}"
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(start)
    )


def routes_of(r: Rig) -> Iterator[APIRoute]:
    for entry in r.server.config.app.routes:
        for route in getattr(entry, "original_router", r.server.config.app).routes:
            if isinstance(route, APIRoute):
                yield route


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        KEY,
        "Bearer",
        "Bearer sesam",
        "Bearer sesame2",
        f"Basic {KEY}",
        "Bearer é",
    ],
)
async def test_every_route_but_health_asks_for_the_key(
    short: Path, authorization: str | None
) -> None:
    async with rig(short, KEYED) as r:
        driver = r.serve(say("x"))
        routes = list(routes_of(r))
        assert len(routes) > 15
        headers = {} if authorization is None else {"Authorization": authorization.encode()}
        refused = 0
        for route in routes:
            for method in route.methods:
                path = route.path_format.replace("{", "").replace("}", "")
                response = await r.http.request(method, path, headers=headers, json=PROMPT)
                assert response.status_code == (200 if path == "/health" else 401), path
                refused += response.status_code == 401
        for path in ("/", "/nowhere", "/docs", "/openapi.json", "/health/", "/HEALTH"):
            assert (await r.http.get(path, headers=headers)).status_code == 401
            refused += 1
        assert not r.control.asked
        assert not driver.submitted
        assert await counted(r, "requests_rejected", 'code="invalid_api_key"') == refused
        await served(r)


@pytest.mark.parametrize(
    ("host", "admitted"),
    [
        ("localhost", True),
        ("LocalHost:8000", True),
        ("127.0.0.1:1", True),
        ("127.8.8.8", True),
        ("[::1]:8000", True),
        ("my-alias:8000", True),
        ("rebound.example:8000", False),
        ("127.0.0.1.rebound.example", False),
        ("192.0.2.1", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_which_names_are_of_this_machine_alone(host: str, admitted: bool) -> None:
    assert is_own_name(host, {"localhost", "my-alias"}) == admitted


async def test_a_page_whose_name_was_made_to_point_here_reads_nothing(short: Path) -> None:
    foreign = {"Host": "rebound.example"}
    async with rig(short) as r:
        assert (await r.http.get("/v1/models", headers=foreign)).status_code == 403
        assert await counted(r, "requests_rejected", 'code="foreign_host"') == 1
    async with rig(short, KEYED) as r:
        response = await r.http.get("/v1/models", headers=foreign | WITH_KEY)
        assert response.status_code == 200, "who asks for a key may have any name"


@pytest.mark.parametrize(
    "target",
    [
        "/health/../metrics",
        "/health/%2e%2e/metrics",
        "/health%2f..%2fmetrics",
        "/health%00/metrics",
        "/health;/metrics",
        "//health",
        "http://h/health/../metrics",
        "/metrics?/health",
        "/metrics#/health",
    ],
)
async def test_no_path_looks_like_health_and_is_another(short: Path, target: str) -> None:
    async with rig(short, KEYED) as r:
        head = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        answer = await asked(r, head.encode())
        assert answer.startswith((b"HTTP/1.1 401", b"HTTP/1.1 400"))
        assert b"paceline_" not in answer


async def test_the_body_of_a_stranger_is_not_read(short: Path) -> None:
    async with rig(short, KEYED) as r, raw(r) as (reader, writer):
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n{"
        )
        async with asyncio.timeout(10):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 401")
        assert b"connection: close" in answer.lower()


async def test_one_who_never_ends_his_request_is_shown_the_door(short: Path) -> None:
    async with rig(short, HASTY) as r, raw(r) as (reader, writer):
        r.serve(say("x"))
        ended = asyncio.create_task(until_hung_up(reader))
        writer.write(b"GET /health HTTP/1.1\r\n")
        while not ended.done():
            writer.write(b"x: y\r\n")
            await served(r)
            await asyncio.sleep(0.02)
        assert await ended == b""
        assert await counted(r, "connections_dismissed", 'reason="slow_head"') == 1


async def test_a_request_may_take_longer_than_its_head(short: Path) -> None:
    async with rig(short, HASTY) as r:
        r.serve(say("a long answer"), pace_s=0.1)
        response = await r.http.post("/v1/completions", json=PROMPT)
        assert response.json()["choices"][0]["text"] == "a long answer"
        assert await counted(r, "connections_dismissed", 'reason="slow_head"') == 0


async def test_a_body_may_take_longer_than_its_head(short: Path) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for part in msgspec.json.encode(PROMPT)[:-1], b"}":
            yield part
            await asyncio.sleep(2 * HASTY.head_s)

    async with rig(short, HASTY) as r:
        r.serve(say("x"))
        response = await r.http.post("/v1/completions", content=slowly())
        assert response.json()["choices"][0]["text"] == "x"


async def test_those_who_only_hold_connections_keep_nobody_out(short: Path) -> None:
    few = msgspec.structs.replace(QUICK, max_connections=8)
    async with rig(short, few) as r:
        r.serve(say("x"))
        silent = []
        place = urlsplit(r.url)
        try:
            for _ in range(50):
                silent.append(await asyncio.open_connection(place.hostname, place.port))
            for _ in range(3):
                async with httpx.AsyncClient(base_url=r.url, verify=False) as fresh:
                    answer = await fresh.post("/v1/completions", json=PROMPT, timeout=10)
                    assert answer.json()["choices"][0]["text"] == "x"
            assert await counted(r, "connections_dismissed", 'reason="crowded"') >= 42
            await r.until(lambda: len(r.server.server_state.connections) <= 8)
        finally:
            for _, writer in silent:
                writer.close()


async def test_who_is_dismissed_is_hung_up_on_at_once_and_counts_until_then() -> None:
    crowd = Crowd(msgspec.structs.replace(QUICK, max_connections=1), Metrics())
    first, second, third = guests = [Mock(client=("h", 1)) for _ in range(3)]
    crowd.enter(first)
    crowd.enter(second)
    first.transport.abort.assert_called_once_with()
    crowd.enter(third)
    second.transport.abort.assert_called_once_with()
    for guest in guests[:2]:
        crowd.leave(guest)
    third.transport.abort.assert_not_called()


async def test_when_all_are_at_work_one_more_is_sent_away(short: Path) -> None:
    few = msgspec.structs.replace(QUICK, max_connections=2)
    async with rig(short, few) as r:
        driver = r.serve(say("x"))
        driver.hold = True
        at_work = [asyncio.create_task(complete(r.url)) for _ in range(2)]
        await r.until(lambda: len(driver.submitted) == 2)
        assert await asked(r, b"") == b""
        driver.hold = False
        for answer in await asyncio.gather(*at_work):
            assert answer.json()["choices"][0]["text"] == "x"


async def complete(url: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, verify=False, timeout=20) as client:
        return await client.post("/v1/completions", json=PROMPT)


NOISE: list[bytes] = [
    b"\x00" * 64 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
    b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(47) + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"x: " + b"y" * 40_000,
    b"GET /" + b"y" * 40_000,
]


async def test_noise_is_turned_away_and_counted(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("x"))
        for number, noise in enumerate(NOISE, 1):
            answer = await asked(r, noise)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 400"), noise[:40]
            await served(r)
            assert await counted(r, "connections_dismissed", 'reason="malformed"') == number


async def test_a_prompt_that_cannot_fit_is_not_read(short: Path) -> None:
    async with rig(short) as r:
        driver = r.serve(say("x"))
        response = await r.http.post("/v1/completions", json=PROMPT | {"prompt": "a" * 10**6})
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"
        assert "1000000 characters" in response.json()["error"]["message"]
        assert not driver.submitted


NAMES = [
    "../secret",
    "..",
    "/etc/passwd",
    "models/../../secret",
    "smol\0",
    "smol/../../secret",
    "%2e%2e%2fsecret",
    "..%2fsecret",
    "link",
    "x" * 5000,
    "\u2025/secret",
]


async def test_names_of_models_do_not_leave_the_store(short: Path) -> None:
    """Not even where a route has such a name, or a link lies beside the store."""
    async with rig(short) as r:
        (short / "secret").mkdir()
        (short / "home" / "link").symlink_to(short / "secret")
        driver = r.driver(say("x"))
        for name in NAMES:
            body = PROMPT | {"model": name}
            response = await r.http.post("/v1/completions", json=body)
            assert response.status_code in (400, 404, 503), name
            route = msgspec.structs.replace(driver.route(), model=name)
            r.control.say([route], [view(model=name)])
            await r.until(lambda name=name: r.gateway.drivers.table.of_model(name))
            response = await r.http.post("/v1/completions", json=body)
            assert response.status_code in (400, 404), name
            assert response.json()["error"]["code"] in ("invalid_request", "not_found"), name
            r.control.say()
            await r.until(lambda: not r.gateway.drivers.table.routes)
        assert not driver.submitted


async def test_a_path_is_one_name_however_it_is_written(short: Path) -> None:
    async with rig(short) as r:
        r.control.answers = {"instances.get": dict}
        for path in ("/api/instances/..%2f..%2fsecret", "/api/instances/%2e%2e", "/v1/models/../x"):
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            status = (await asked(r, head.encode())).split(b" ", 2)[1]
            assert status in (b"404", b"200")
        assert r.control.asked == [("instances.get", {"id": ".."})]
