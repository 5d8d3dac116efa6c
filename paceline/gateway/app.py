"""The HTTP application, put together from its parts."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from msgspec.structs import replace
from starlette.exceptions import HTTPException

from paceline.gateway.admin import Admin, Asks
from paceline.gateway.auth import ApiKeyGuard
from paceline.gateway.drivers import Drivers
from paceline.gateway.errors import (
    InvalidField,
    RemoteError,
    as_known,
    error_headers,
    error_json,
    shape_of,
)
from paceline.gateway.health import Health
from paceline.gateway.hosts import LoopbackGuard
from paceline.gateway.library import Library
from paceline.gateway.links import Dial
from paceline.gateway.metrics import Metrics
from paceline.gateway.openai import OpenAi
from paceline.gateway.settings import Settings
from paceline.process.logs import get_logger
from paceline.types.control import GatewayBeat, Routes
from paceline.types.errors import NotFound, PacelineError
from paceline.types.facts import DriverLink, GatewayFacts


class Control(Asks, Protocol):
    """The control path as the gateway uses it."""

    async def receive(self) -> Routes: ...
    def send_beat(self, beat: GatewayBeat) -> bool: ...


log = get_logger(__name__)

Facts = Callable[[int, tuple[DriverLink, ...]], GatewayFacts]
"""This gateway's facts, given how many streams it carries and its links to drivers."""


class Gateway:
    """All that requests share. Use as `async with`."""

    def __init__(
        self, *, control: Control, dial: Dial, facts: Facts, library: Library, settings: Settings
    ) -> None:
        self.settings = settings
        self.control = control
        self.metrics = Metrics()
        self.drivers = Drivers(dial, settings, self.metrics)
        self.library = library
        self._facts = facts
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Gateway:
        await self.drivers.__aenter__()
        self._tasks = [
            asyncio.create_task(self._heed(), name="routes"),
            asyncio.create_task(self._beat(), name="beats"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.drivers.__aexit__()

    async def wind_down(self) -> None:
        """Let running requests end for a short while, then end them with a word to clients."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.settings.stop_s
        while self.drivers.streams and loop.time() < until:  # noqa: ASYNC110 - a bounded look
            await asyncio.sleep(0.02)
        self.drivers.stop()

    async def _heed(self) -> None:
        while True:
            routes = await self.control.receive()
            with _going_on("routes"):
                self.drivers.heed(routes)
                if routes.term == self.drivers.table.term:
                    self.library.heed(routes.models)

    async def _beat(self) -> None:
        for number in itertools.count(1):
            with _going_on("a beat"):
                facts = self._facts(self.drivers.streams, self.drivers.links)
                heeding = replace(facts, term=self.drivers.table.term)
                self.control.send_beat(GatewayBeat(heeding, number=number))
            await asyncio.sleep(self.settings.beat_s)


@contextmanager
def _going_on(what: str) -> Iterator[None]:
    """An error costs one of them: a gateway that heeds or beats no more would look well."""
    try:
        yield
    except Exception as error:
        log.exception("not done", what=what, reason=str(error))


def create_app(gateway: Gateway) -> FastAPI:
    """The routes over a gateway, which the app starts and ends with its own life."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with gateway:
            yield

    settings, metrics = gateway.settings, gateway.metrics
    app = FastAPI(title="Paceline", lifespan=lifespan, openapi_url=None)
    openai = OpenAi(gateway.drivers, gateway.library, settings, metrics)
    app.include_router(openai.router())
    app.include_router(Admin(gateway.control, settings).router())
    app.include_router(Health(gateway.drivers, metrics).router())
    _shape_errors(app, metrics)
    if settings.api_key is None:
        app.add_middleware(LoopbackGuard, host=settings.host, metrics=metrics)
    else:
        app.add_middleware(ApiKeyGuard, api_key=settings.api_key, metrics=metrics)
    return app


def _shape_errors(app: FastAPI, metrics: Metrics) -> None:
    async def respond(_: Request, error: Exception) -> Response:
        known = as_known(_translated(error))
        metrics.rejected.labels(known.code).inc()
        status, headers = shape_of(known).status, error_headers(known)
        return Response(error_json(known), status, headers, "application/json")

    for kind in (PacelineError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, respond)


def _translated(error: Exception) -> Exception:
    """Errors of the framework in our words."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return InvalidField(str(first["loc"][-1]), f"{first['loc'][-1]}: {first['msg']}")
    if isinstance(error, HTTPException) and error.status_code == 404:
        return NotFound("there is nothing at this path; see /v1/models, /api/status, /health")
    if isinstance(error, HTTPException) and error.status_code == 405:
        return RemoteError("method_not_allowed", "this path does not take that method")
    return error
