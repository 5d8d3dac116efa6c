"""Everything that can be wrong with a request, in OpenAI's shape and with the right status."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest

from paceline.gateway.errors import SHAPES
from paceline.gateway.library import ModelText
from paceline.transport.errors import NobodyGives
from paceline.types.errors import InvalidRequest, QueueFull, Unavailable
from paceline.types.ids import Epoch
from paceline.types.states import InstanceState
from paceline.types.stream import Rejected, StreamId
from tests.gateway.rig import MAX_CONTEXT, MODEL, QUICK, Rig, add_model, rig, say, view

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "hi"}]


def checked(response: httpx.Response, status: int, code: str | None = None) -> str:
    """The message of an OpenAI-shaped error."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    if code is not None:
        assert error["code"] == code
    return str(error["message"])


def test_what_may_work_later_says_so() -> None:
    kinds = {Unavailable, *Unavailable.__subclasses__()}
    assert NobodyGives in kinds
    for kind in kinds:
        shape = SHAPES[kind.code]
        assert shape.status == (429 if kind is QueueFull else 503)
        assert shape.retry_after_s


async def test_a_tokenizer_that_does_not_come_ends_at_the_requests_deadline(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    come = threading.Event()
    monkeypatch.setattr(ModelText, "load", lambda *_: come.wait(60))
    async with rig(short) as r:
        r.serve(say("x"))
        await _routed(r)
        try:
            assert "tokenizer" in checked(await r.chat(timeout=0.2), 504, "deadline_exceeded")
        finally:
            come.set()


UNFIT_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": 9}, "temperature"),
    ({"top_p": -1}, "top_p"),
    ({"n": 0}, "n must be"),
    ({"n": 1000}, "n must be"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 2.5}, "max_tokens"),
    ({"stop": ["x"] * 17}, "16"),
    ({"stop": ""}, "stop"),
    ({"seed": -1}, "seed"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"99999": 1}}, "logit_bias"),
    ({"logprobs": True, "top_logprobs": 99}, "logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"timeout": 0}, "timeout"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "robot"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
    ({"messages": [{"content": "x"}]}, "role"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"model": 3}, "model"),
]


async def test_fields_that_cannot_be(short: Path) -> None:
    async with rig(short) as r:
        driver = r.serve(say("x"))
        await _routed(r)
        for change, words in UNFIT_FIELDS:
            assert words in checked(await r.chat(**change), 400), change
        assert not driver.submitted


async def test_what_asks_for_nothing_unsupported_is_served(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("x"))
        harmless = {
            "tools": [],
            "response_format": {"type": "text"},
            "tool_choice": None,
            "user": "me",
            "store": True,
        }
        assert (await r.chat(**harmless)).status_code == 200


async def test_malformed_json(short: Path) -> None:
    async with rig(short) as r:
        for body in (b"{", b"", b"[]", b'"x"', b"\xff", b"[" * 200_000):
            response = await r.http.post("/v1/chat/completions", content=body)
            assert "JSON" in checked(response, 400, "invalid_request")


async def test_missing_fields_are_named(short: Path) -> None:
    async with rig(short) as r:
        for body, field in (
            ({}, "model"),
            ({"model": MODEL}, "prompt"),
            ({"prompt": "x"}, "model"),
        ):
            response = await r.http.post("/v1/completions", json=body)
            assert "required field" in checked(response, 400)
            assert response.json()["error"]["param"] == field


UNFIT_PROMPTS: list[tuple[Any, str]] = [
    ([], "prompt"),
    ([1, "a"], "prompt"),
    ([99999], "prompt"),
    ([-1], "prompt"),
    ("", "empty"),
    (["a", ""], "empty"),
    ([[]], "empty"),
    (["a"] * 200, "200"),
]


async def test_prompts_that_cannot_be(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("x"))
        for prompt, words in UNFIT_PROMPTS:
            body = {"model": MODEL, "prompt": prompt}
            assert words in checked(await r.http.post("/v1/completions", json=body), 400), prompt


async def test_completions_refuse_what_they_cannot_do(short: Path) -> None:
    async with rig(short) as r:
        for field in ("echo", "suffix", "best_of"):
            body = {"model": MODEL, "prompt": "x", field: 5}
            response = await r.http.post("/v1/completions", json=body)
            assert field in checked(response, 400)
            assert response.json()["error"]["param"] == field


async def test_unknown_model(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("x"))
        await _routed(r)
        with pytest.raises(openai.NotFoundError) as caught:
            await r.openai.chat.completions.create(model="other", messages=HI)
        assert caught.value.code == "model_not_found"
        assert MODEL in str(caught.value)
        checked(await r.http.get("/v1/models/other"), 404, "model_not_found")


async def test_prompt_too_long_says_both_numbers(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("x"))
        body = {"model": MODEL, "prompt": "x" * 600}
        message = checked(
            await r.http.post("/v1/completions", json=body), 400, "context_length_exceeded"
        )
        assert "600" in message
        assert str(MAX_CONTEXT) in message
        body = {"model": MODEL, "prompt": "x" * 500, "max_tokens": 13}
        message = checked(await r.http.post("/v1/completions", json=body), 400)
        assert "513" in message
        assert str(MAX_CONTEXT) in message


async def test_kv_bounds_the_context_too(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("x"), pages=2)
        body = {"model": MODEL, "prompt": "x" * 128}
        assert "128" in checked(await r.http.post("/v1/completions", json=body), 400)


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_too_large(short: Path, chunked: bool) -> None:
    async with rig(short, msgspec.structs.replace(QUICK, body_bytes=10_000)) as r:
        r.serve(say("x"))

        async def blocks() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"x" * 1000

        content = blocks() if chunked else b"x" * 20_000
        response = await r.http.post("/v1/completions", content=content)
        assert "10000" in checked(response, 413, "body_too_large")
        assert (await r.chat()).status_code == 200


async def test_a_body_that_does_not_come(short: Path) -> None:
    async with rig(short, msgspec.structs.replace(QUICK, body_s=0.2)) as r:

        async def blocks() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.sleep(0.5)

        response = await r.http.post("/v1/completions", content=blocks())
        checked(response, 408, "body_timeout")


async def test_a_chat_without_template(short: Path) -> None:
    add_model(short / "home", "plain", template=None)
    async with rig(short) as r:
        r.serve(say("x"), model="plain")
        message = checked(await r.chat(model="plain"), 400, "chat_template_missing")
        assert "/v1/completions" in message
        answer = await r.openai.completions.create(model="plain", prompt="a")
        assert answer.choices[0].text == "x"


async def test_a_template_that_refuses(short: Path) -> None:
    add_model(short / "home", "strict", template="{{ raise_exception('roles must alternate') }}")
    async with rig(short) as r:
        r.serve(say("x"), model="strict")
        assert "roles must alternate" in checked(await r.chat(model="strict"), 400)


async def test_nothing_ready(short: Path) -> None:
    async with rig(short, msgspec.structs.replace(QUICK, route_wait_s=0.1)) as r:
        table = r.gateway.drivers.table
        for state in set(InstanceState) - {InstanceState.READY}:
            r.control.say([], [view(state)])
            await r.until(lambda s=state: [v.state for v in table.instances.values()] == [s])
            response = await r.chat()
            assert f"it is {state.value}" in checked(response, 503, "unavailable")
            assert int(response.headers["retry-after"]) > 0
            ready = await r.http.get("/ready")
            assert ready.status_code == 503
            assert f"it is {state.value}" in ready.json()["reasons"][0]


async def test_what_will_not_come_is_not_waited_for(short: Path) -> None:
    async with rig(short, msgspec.structs.replace(QUICK, route_wait_s=60)) as r:
        for state in (InstanceState.FAILED, InstanceState.DRAINING, InstanceState.STOPPED):
            r.control.say([], [view(state)])
            await r.until(lambda: r.gateway.drivers.table.instances)
            checked(await r.chat(), 503, "unavailable")


async def test_before_the_controller_has_spoken(short: Path) -> None:
    async with rig(short) as r:
        checked(await r.chat(), 503)
        assert (await r.http.get("/ready")).status_code == 503
        assert (await r.http.get("/health")).status_code == 200


async def test_a_request_that_waits_is_answered_when_the_instance_is_ready(short: Path) -> None:
    async with rig(short, msgspec.structs.replace(QUICK, route_wait_s=20)) as r:
        r.control.say([], [view(InstanceState.STARTING)])
        asking = asyncio.create_task(r.chat())
        await asyncio.sleep(0.2)
        assert await r.metric("num_requests_waiting") == 1
        r.serve(say("at last"))
        assert (await asking).json()["choices"][0]["message"]["content"] == "at last"


async def test_only_so_many_may_wait(short: Path) -> None:
    settings = msgspec.structs.replace(QUICK, route_wait_s=1.0, max_waiting=2)
    async with rig(short, settings) as r:
        r.control.say([], [view(InstanceState.STARTING)])
        await r.until(lambda: r.gateway.drivers.table.instances)
        responses = await asyncio.gather(*(r.chat() for _ in range(4)))
        codes = sorted(response.json()["error"]["code"] for response in responses)
        assert codes == ["overloaded", "overloaded", "unavailable", "unavailable"]


async def test_only_so_many_streams_at_once(short: Path) -> None:
    async with rig(short, msgspec.structs.replace(QUICK, max_streams=2)) as r:
        r.serve(say("x"))
        assert (await r.chat(n=2)).status_code == 200
        response = await r.chat(n=3)
        checked(response, 503, "overloaded")
        assert "retry-after" in response.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_a_driver_that_refuses_for_good(short: Path, stream: bool) -> None:
    async with rig(short) as r:
        driver = r.serve(say("x"))
        driver.reject = Rejected(
            StreamId(""), 0, InvalidRequest.code, "this cannot be drawn", retry=False
        )
        assert "this cannot be drawn" in checked(await r.chat(stream=stream), 400)


async def test_a_driver_that_refuses_for_now(short: Path) -> None:
    async with rig(short) as r:
        driver = r.serve(say("x"))
        driver.reject = Rejected(StreamId(""), 0, "unavailable", "the queue is full", retry=True)
        response = await r.chat()
        assert "the queue is full" in checked(response, 503)
        assert len(driver.submitted) > 2


FULL = Rejected(StreamId(""), 0, QueueFull.code, "256 streams wait", retry=True, retry_after_s=17)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_asks_to_come_back_later(short: Path, stream: bool) -> None:
    async with rig(short, msgspec.structs.replace(QUICK, route_wait_s=60)) as r:
        driver = r.serve(say("x"))
        driver.reject = FULL
        response = await r.chat(stream=stream, n=2)
        assert "256 streams wait" in checked(response, 429, "queue_full")
        assert response.json()["error"]["type"] == "rate_limit_error"
        assert response.headers["retry-after"] == "17"
        with pytest.raises(openai.RateLimitError):
            await r.openai.chat.completions.create(model=MODEL, messages=HI)
        driver.reject = None
        assert (await r.chat()).status_code == 200


async def test_a_full_queue_that_tells_no_time_gets_the_usual_one(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("x")).reject = msgspec.structs.replace(FULL, retry_after_s=None)
        assert int((await r.chat()).headers["retry-after"]) > 0


async def test_where_one_queue_is_full_another_instance_is_asked(short: Path) -> None:
    async with rig(short) as r:
        drivers = [r.driver(say("x"), instance=name) for name in ("i-1", "i-2")]
        r.control.say([d.route() for d in drivers], [view(name=name) for name in ("i-1", "i-2")])
        await r.until(lambda: len(r.gateway.drivers.table.routes) == 2)
        drivers[0].reject = FULL
        for _ in range(3):
            assert (await r.chat()).status_code == 200
        assert drivers[0].submitted
        drivers[1].reject = FULL
        checked(await r.chat(), 429, "queue_full")


async def test_a_stream_that_has_begun_is_not_sent_away(short: Path) -> None:
    async with rig(short) as r:
        driver = r.serve(say("a long answer"), pace_s=0.01)
        driver.closing_at = 5
        driver.reject = None
        asking = asyncio.create_task(r.chat())
        await r.until(lambda: driver.closing_at is None)
        driver = r.driver(say("a long answer"), epoch=Epoch(1, 2))
        driver.reject = FULL
        r.control.say([driver.route()], [view()])
        await r.until(lambda: len(driver.submitted) > 3)
        driver.reject = None
        assert (await asking).json()["choices"][0]["message"]["content"] == "a long answer"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_deadline_of_a_request(short: Path, stream: bool) -> None:
    async with rig(short) as r:
        driver = r.serve(say("x"))
        driver.hold = True
        response = await r.chat(timeout=0.3, stream=stream)
        checked(response, 504, "deadline_exceeded")
        await r.until(lambda: driver.cancelled)


async def test_a_deadline_in_the_midst_of_a_stream_is_an_error_event(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("x" * 200), pace_s=0.02)
        with pytest.raises(openai.APIError, match="tokens were made"):
            async for _ in await r.openai.chat.completions.create(
                model=MODEL, messages=HI, stream=True, extra_body={"timeout": 0.4}
            ):
                pass


async def test_unknown_paths_and_methods(short: Path) -> None:
    async with rig(short) as r:
        checked(await r.http.get("/nowhere"), 404, "not_found")
        checked(await r.http.get("/v1/chat/completions"), 405, "method_not_allowed")


async def test_a_fault_of_ours_is_shaped_too(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("x"))
        await _routed(r)
        (short / "home" / "models" / MODEL / "tokenizer.json").write_text("broken")
        checked(await r.chat(), 500, "checkpoint")


async def test_api_key(short: Path) -> None:
    async with rig(short, msgspec.structs.replace(QUICK, api_key="secret")) as r:
        r.serve(say("x"))
        assert (await r.http.get("/health")).status_code == 200
        for path in ("/ready", "/metrics", "/v1/models", "/api/nodes"):
            checked(await r.http.get(path), 401, "invalid_api_key")
        for header in ("secret", "Bearer wrong", "Bearer secrets"):
            response = await r.http.get("/v1/models", headers={"Authorization": header})
            checked(response, 401)
        client = r.openai_client("secret")
        answer = await client.chat.completions.create(model=MODEL, messages=HI)
        assert answer.choices[0].message.content == "x"
        await client.close()


async def _routed(r: Rig) -> None:
    await r.until(lambda: r.gateway.drivers.table.routes)
