"""Where requests wait for an instance that starts or recovers; bounded in number and in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from paceline.gateway.drivers import Drivers
from paceline.gateway.errors import ModelNotFound, Overloaded
from paceline.gateway.metrics import Metrics
from paceline.gateway.routes import ModelStanding, Standing
from paceline.gateway.settings import Settings
from paceline.types.control import Route
from paceline.types.errors import Unavailable


class WaitingRoom:
    def __init__(
        self,
        drivers: Drivers,
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._drivers = drivers
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._waiting = 0

    async def routes_of(self, model: str, deadline: float) -> tuple[Route, ...]:
        """The routes of a served model; waits for the first one if an instance is on its way.

        Raises ModelNotFound, Overloaded, or Unavailable with the instances' reasons.
        """
        until = min(deadline, self._clock() + self._settings.route_wait_s)
        if not self._ready(model):
            await self._wait(model, until)
        return self._drivers.table.of_model(model)

    async def _wait(self, model: str, until: float) -> None:
        if self._waiting >= self._settings.max_waiting:
            raise Overloaded(
                f"{self._waiting} requests wait for an instance already; try again in a moment"
            )
        self._waiting += 1
        self._metrics.waiting.inc()
        try:
            async with asyncio.timeout(until - self._clock()):
                while not self._ready(model):
                    await self._drivers.news()
        except TimeoutError:
            raise _unavailable(model, self._drivers.table.standing(model)) from None
        finally:
            self._waiting -= 1
            self._metrics.waiting.dec()

    def _ready(self, model: str) -> bool:
        """Raises when waiting is of no use."""
        standing = self._drivers.table.standing(model)
        match standing.standing:
            case Standing.READY:
                return True
            case Standing.ABSENT:
                served = ", ".join(self._drivers.table.models()) or "none"
                raise ModelNotFound(
                    f"model {model!r} is not served here (served: {served}); start it with "
                    f"`paceline run {model}` or POST /api/instances"
                )
            case Standing.DOWN:
                raise _unavailable(model, standing)
            case _:
                return False


def _unavailable(model: str, standing: ModelStanding) -> Unavailable:
    reasons = "; ".join(standing.reasons)
    return Unavailable(f"model {model} cannot answer now, try again later: {reasons}")
