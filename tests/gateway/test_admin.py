"""The cluster's own routes, health and metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paceline.types.control import ControllerCounts
from paceline.types.errors import InvalidRequest, NotFound
from tests.gateway.rig import MODEL, QUICK, rig, say, view

pytestmark = pytest.mark.anyio

ANSWERS: dict[str, Any] = {
    "instances.list": [],
    "instances.create": lambda body: {"id": "i-7", **body},
    "instances.get": lambda body: {"id": body["id"]},
    "instances.delete": lambda body: {"id": body["id"], "state": "draining"},
    "nodes.list": [{"name": "n1"}],
    "plan": lambda body: {"placement": None, "reasons": ["no memory"]},
    "runners.list": [{"runner_id": "r-1"}],
    "tasks.get": lambda body: {"id": body["id"], "state": "complete"},
    "status": {"cluster_id": "c"},
}
ROUTES = [
    ("GET", "/api/instances", "instances.list", {}),
    ("GET", "/api/instances/i-7", "instances.get", {"id": "i-7"}),
    ("DELETE", "/api/instances/i-7", "instances.delete", {"id": "i-7"}),
    ("GET", "/api/nodes", "nodes.list", {}),
    ("GET", "/api/runners", "runners.list", {}),
    ("GET", "/api/tasks/t-1", "tasks.get", {"id": "t-1"}),
    ("GET", "/api/status", "status", {}),
    (
        "GET",
        "/api/placements?model=tiny&min_nodes=2&objective=memory",
        "plan",
        {"model": "tiny", "min_nodes": 2, "objective": "memory"},
    ),
    ("GET", "/api/events?follow=false&since=3&limit=9", "events", {"since": 3, "limit": 9}),
]


async def test_each_route_asks_the_controller(short: Path) -> None:
    async with rig(short) as r:
        r.control.answers = {**ANSWERS, "events": [{"number": 4}]}
        for method, path, verb, body in ROUTES:
            response = await r.http.request(method, path)
            assert response.status_code == 200, path
            assert r.control.asked[-1] == (verb, body)
            answer = r.control.answers[verb]
            assert response.json() == (answer(body) if callable(answer) else answer)


async def test_an_instance_is_created(short: Path) -> None:
    async with rig(short) as r:
        r.control.answers = ANSWERS
        wish = {"model": MODEL, "min_nodes": 2, "max_nodes": None, "kv_tokens": 4096}
        response = await r.http.post("/api/instances", json=wish)
        assert response.status_code == 201
        assert response.json()["id"] == "i-7"
        given = {"model": MODEL, "min_nodes": 2, "kv_tokens": 4096}
        assert r.control.asked == [("instances.create", given)]


async def test_a_task_is_handed_over_and_its_end_awaited(short: Path) -> None:
    async with rig(short) as r:
        states = iter(["pending", "parked", "failed"])
        r.control.answers = {
            "tasks.create": lambda body: {"id": "t-1", "state": next(states)},
            "tasks.get": lambda body: {"id": "t-1", "state": next(states), "reason": "too early"},
        }
        body = {"kind": "connect", "epoch": [1, 2], "world_size": 2}
        response = await r.http.post("/api/runners/r-1/tasks", json=body)
        assert response.status_code == 200
        assert response.json() == {"id": "t-1", "state": "failed", "reason": "too early"}
        assert r.control.asked[0] == (
            "tasks.create",
            {"runner": "r-1", "kind": "connect", "epoch": (1, 2), "fields": {"world_size": 2}},
        )
        assert [verb for verb, _ in r.control.asked[1:]] == ["tasks.get", "tasks.get"]


async def test_a_task_that_goes_on_is_answered_as_it_is(short: Path) -> None:
    async with rig(short) as r:
        r.control.answers = {
            "tasks.create": {"id": "t-1", "state": "running"},
            "tasks.get": {"id": "t-1", "state": "running"},
        }
        response = await r.http.post("/api/runners/r-1/tasks?wait=0.1", json={"kind": "load"})
        assert response.json()["state"] == "running"
        for wrong in (b"{}", b'{"kind": 3}', b'{"kind": "load", "epoch": 1.5}'):
            response = await r.http.post("/api/runners/r-1/tasks", content=wrong)
            assert response.status_code == 400


async def test_bad_wishes_never_reach_the_controller(short: Path) -> None:
    async with rig(short) as r:
        for body in (b"{", b"{}", b'{"model": 1}', b'{"model": "m", "objective": "fun"}'):
            response = await r.http.post("/api/instances", content=body)
            assert response.status_code == 400
            assert response.json()["error"]["type"] == "invalid_request_error"
        for path in (
            "/api/placements",
            "/api/placements?model=m&min_nodes=x",
            "/api/events?since=x",
        ):
            response = await r.http.get(path)
            assert response.status_code == 400, path
            assert response.json()["error"]["param"] in ("model", "min_nodes", "since")
        assert not r.control.asked


async def test_the_controllers_errors_pass_through(short: Path) -> None:
    async with rig(short) as r:
        for error, status in ((NotFound("no"), 404), (InvalidRequest("no"), 400)):
            r.control.answers = {"instances.get": error}
            response = await r.http.get("/api/instances/i-7")
            assert response.status_code == status
            assert response.json()["error"]["message"] == "no"


async def test_the_controller_is_away(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("x"))
        r.control.away = True
        response = await r.http.get("/api/instances")
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "unavailable"
        assert "retry-after" in response.headers
        assert (await r.chat()).status_code == 200


async def test_events_are_followed_through_an_absence(short: Path) -> None:
    log = [{"number": n, "sentence": f"it is {n}"} for n in range(1, 4)]
    async with rig(short, msgspec.structs.replace(QUICK, keepalive_s=0.05)) as r:
        r.control.answers = {"events": lambda body: [e for e in log if e["number"] > body["since"]]}
        seen: list[dict[str, Any]] = []
        comments = 0
        async with r.http.stream("GET", "/api/events?since=1") as response:
            async for line in response.aiter_lines():
                comments += line.startswith(": keep-alive")
                if line.startswith("data: "):
                    seen.append(json.loads(line[6:]))
                    if len(seen) == 2:
                        r.control.away = True
                if comments == 1 and r.control.away:
                    r.control.away = False
                    log.append({"number": 4, "sentence": "it is 4"})
                if len(seen) == 3:
                    break
        assert [event["number"] for event in seen] == [2, 3, 4]


async def test_events_go_on_after_the_last_one_seen(short: Path) -> None:
    async with rig(short) as r:
        r.control.answers = {"events": lambda body: [{"number": body["since"] + 1}]}
        headers = {"last-event-id": "41"}
        async with r.http.stream("GET", "/api/events", headers=headers) as response:
            async for line in response.aiter_lines():
                if line.startswith("id: "):
                    assert line == "id: 42"
                    break


async def test_models_and_readiness(short: Path) -> None:
    async with rig(short) as r:
        r.serve(say("x"))
        await r.until(lambda: r.gateway.drivers.table.routes)
        assert [model.id async for model in r.openai.models.list()] == [MODEL]
        assert (await r.openai.models.retrieve(MODEL)).id == MODEL
        ready = await r.http.get("/ready")
        assert (ready.status_code, ready.json()["models"]) == (200, [MODEL])


async def test_beats_carry_the_key_and_the_streams(short: Path) -> None:
    async with rig(short) as r:
        await r.until(lambda: r.control.beats)
        facts = r.control.beats[0].facts
        assert (facts.public_key, facts.streams, facts.url) == (r.keys.public, 0, r.url)
        driver = r.serve(say("x"))
        driver.hold = True
        async with r.http.stream(
            "POST", "/v1/completions", json={"model": MODEL, "prompt": "a", "timeout": 0.3}
        ):
            pass
        assert any(beat.facts.streams == 1 for beat in r.control.beats)


async def test_metrics(short: Path) -> None:
    async with rig(short) as r:
        r.control.say([], [view()])
        r.serve(say("hello"))
        await r.chat()
        await r.chat(max_tokens=2)
        await r.chat(n=0)
        text = (await r.http.get("/metrics")).text
        label = f'model_name="{MODEL}"'
        for line in (
            f"paceline_time_to_first_token_seconds_count{{{label}}} 2.0",
            f"paceline_inter_token_latency_seconds_count{{{label}}} 6.0",
            f"paceline_e2e_request_latency_seconds_count{{{label}}} 2.0",
            f"paceline_generation_tokens_total{{{label}}} 8.0",
            "paceline_num_requests_running 0.0",
            f'paceline_request_success_total{{finished_reason="stop",{label}}} 1.0',
            f'paceline_request_success_total{{finished_reason="length",{label}}} 1.0',
            'paceline_requests_rejected_total{code="invalid_request"} 1.0',
        ):
            assert line in text.splitlines(), line


async def test_metrics_tell_what_the_controller_counts(short: Path) -> None:
    async with rig(short) as r:
        counts = ControllerCounts(
            tasks={"load/failed": 2},
            events={"placed": 3},
            nodes={"ready": 4},
            strangers={"controller": 0, "runner": 5},
        )
        r.control.say([], [view()], counts=counts)
        await r.until(lambda: r.gateway.drivers.table.term)
        text = (await r.http.get("/metrics")).text
        for line in (
            'paceline_tasks_total{kind="load",state="failed"} 2.0',
            'paceline_controller_events_total{kind="placed"} 3.0',
            'paceline_nodes{state="ready"} 4.0',
            'paceline_strangers_total{process="controller"} 0.0',
            'paceline_strangers_total{process="runner"} 5.0',
        ):
            assert line in text.splitlines(), line


async def test_metrics_tell_what_prefixes_and_guesses_saved(short: Path) -> None:
    async with rig(short) as r:
        driver = r.driver(say("x"))
        counts = {"prefix_queries": 300, "prefix_hits": 128, "guesses_made": 9, "guesses_right": 5}
        r.control.say([driver.route(**counts)], [view()])
        await r.until(lambda: r.gateway.drivers.table.routes)
        label = f'instance="i-1",model_name="{MODEL}"'
        assert await r.metric(f"prefix_cache_queries_total{{{label}}}") == 300
        assert await r.metric(f"prefix_cache_hits_total{{{label}}}") == 128
        assert await r.metric(f"spec_decode_num_draft_tokens_total{{{label}}}") == 9
        assert await r.metric(f"spec_decode_num_accepted_tokens_total{{{label}}}") == 5
