"""The cluster for people and programs: instances, nodes, events; each call asks the controller.

When the controller is away these calls say so, and nothing else is touched by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec
from fastapi import APIRouter, Query, Request, Response

from paceline.gateway.body import read_body
from paceline.gateway.replies import KEEP_ALIVE
from paceline.gateway.requests import converted, json_object
from paceline.gateway.settings import Settings
from paceline.gateway.sse import EventStream
from paceline.types.errors import DeadlineExceeded, TransportError, Unavailable
from paceline.types.instance import ManualSeat
from paceline.types.states import Objective, TaskState

EVENTS_AT_ONCE = 256


class Asks(Protocol):
    """The controller, asked; `transport.control_async.AsyncControlClient` is the real one."""

    async def ask(self, verb: str, body: dict[str, Any], timeout_s: float) -> Any:
        """Raises what the controller answered, or DeadlineExceeded."""


class NewInstance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of POST /api/instances. A field that is null counts as not given."""

    model: str
    min_nodes: int | None = None
    max_nodes: int | None = None
    objective: Objective | None = None
    dtype: str | None = None
    kv_tokens: int | None = None
    seats: tuple[ManualSeat, ...] | None = None
    """A placement by hand."""


class NewTask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of POST /api/runners/{id}/tasks; what is left out comes from the runner's seat."""

    kind: str
    epoch: str | tuple[int, int] | None = None
    """`1.5` or [1, 5]"""
    task_id: str | None = None
    deadline_s: float | None = None


class Admin:
    def __init__(self, controller: Asks, settings: Settings) -> None:
        self._controller = controller
        self._settings = settings

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api")
        router.add_api_route("/instances", self.instances)
        router.add_api_route("/instances", self.create, methods=["POST"])
        router.add_api_route("/instances/{name}", self.instance)
        router.add_api_route("/instances/{name}", self.delete, methods=["DELETE"])
        router.add_api_route("/nodes", self.nodes)
        router.add_api_route("/nodes/{name}/drain", self.drain, methods=["POST"])
        router.add_api_route("/nodes/{name}/drain", self.undrain, methods=["DELETE"])
        router.add_api_route("/runners", self.runners)
        router.add_api_route("/runners/{runner}/tasks", self.hand_over, methods=["POST"])
        router.add_api_route("/tasks/{name}", self.task)
        router.add_api_route("/status", self.status)
        router.add_api_route("/placements", self.placements)
        router.add_api_route("/events", self.events)
        return router

    async def instances(self) -> Response:
        return await self._asked("instances.list", {})

    async def create(self, request: Request) -> Response:
        settings = self._settings
        body = await read_body(request, max_bytes=settings.body_bytes, timeout_s=settings.body_s)
        wish = converted(json_object(body), NewInstance)
        return await self._asked("instances.create", msgspec.to_builtins(wish), status=201)

    async def instance(self, name: str) -> Response:
        return await self._asked("instances.get", {"id": name})

    async def delete(self, name: str) -> Response:
        return await self._asked("instances.delete", {"id": name})

    async def nodes(self) -> Response:
        return await self._asked("nodes.list", {})

    async def drain(self, name: str) -> Response:
        """The node is to be empty, until DELETE of the same path; answers with the node."""
        return await self._asked("nodes.drain", {"node": name})

    async def undrain(self, name: str) -> Response:
        return await self._asked("nodes.drain", {"node": name, "drained": False})

    async def runners(self) -> Response:
        return await self._asked("runners.list", {})

    async def task(self, name: str) -> Response:
        return await self._asked("tasks.get", {"id": name})

    async def hand_over(
        self, runner: str, request: Request, wait: float = Query(default=5.0, ge=0, le=60)
    ) -> Response:
        """Hands a task to a runner and answers with it, ended or as it is after `wait` seconds."""
        settings = self._settings
        body = await read_body(request, max_bytes=settings.body_bytes, timeout_s=settings.body_s)
        said = json_object(body)
        given = msgspec.to_builtins(converted(said, NewTask))
        rest = {key: value for key, value in said.items() if key not in given}
        told = {"runner": runner, **given, "fields": rest}
        task = await self._ask("tasks.create", told)
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while not TaskState(task["state"]).is_terminal and loop.time() < until:
            await asyncio.sleep(settings.task_poll_s)
            task = await self._ask("tasks.get", {"id": task["id"]})
        return Response(msgspec.json.encode(task), media_type="application/json")

    async def status(self) -> Response:
        return await self._asked("status", {})

    async def placements(
        self,
        model: str,
        min_nodes: int | None = None,
        max_nodes: int | None = None,
        objective: Objective | None = None,
        dtype: str | None = None,
        kv_tokens: int | None = None,
    ) -> Response:
        """Where an instance would be placed now, or why nowhere; nothing is started."""
        wish = NewInstance(
            model=model,
            min_nodes=min_nodes,
            max_nodes=max_nodes,
            objective=objective,
            dtype=dtype,
            kv_tokens=kv_tokens,
        )
        return await self._asked("plan", msgspec.to_builtins(wish))

    async def events(
        self,
        request: Request,
        since: int = Query(default=0, ge=0),
        limit: int = Query(default=EVENTS_AT_ONCE, ge=1, le=EVENTS_AT_ONCE),
        follow: bool = True,
    ) -> Response:
        """Events with a number above `since`: those there are, or these and all to come."""
        if not follow:
            return await self._asked("events", {"since": since, "limit": limit})
        seen = request.headers.get("last-event-id", "")
        return EventStream(
            self._follow(int(seen) if seen.isdecimal() else since),
            write_s=self._settings.write_s,
            on_close=lambda _: None,
        )

    async def _follow(self, since: int) -> AsyncIterator[bytes]:
        loop, settings = asyncio.get_running_loop(), self._settings
        wrote_at = loop.time()
        yield b": events\n\n"
        while True:
            events = await self._events_after(since)
            for event in events:
                since = event["number"]
                yield b"id: %d\ndata: %s\n\n" % (since, msgspec.json.encode(event))
                wrote_at = loop.time()
            if loop.time() - wrote_at > settings.keepalive_s:
                yield KEEP_ALIVE
                wrote_at = loop.time()
            if len(events) < EVENTS_AT_ONCE:
                await asyncio.sleep(settings.events_poll_s)

    async def _events_after(self, since: int) -> list[dict[str, Any]]:
        """None while the controller is away: it is asked again."""
        try:
            body = {"since": since, "limit": EVENTS_AT_ONCE}
            events: list[dict[str, Any]] = await self._ask("events", body)
        except Unavailable:
            return []
        return [event for event in events if event["number"] > since]

    async def _asked(self, verb: str, body: dict[str, Any], status: int = 200) -> Response:
        content = msgspec.json.encode(await self._ask(verb, body))
        return Response(content, status_code=status, media_type="application/json")

    async def _ask(self, verb: str, body: dict[str, Any]) -> Any:
        try:
            return await self._controller.ask(verb, body, self._settings.ask_s)
        except (DeadlineExceeded, TransportError) as error:
            raise Unavailable(str(error)) from error
