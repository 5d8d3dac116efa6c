"""Links to the drivers of all routes: dialled when a route comes, closed when its line is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from paceline.gateway.driver import Driver, FrontLink
from paceline.gateway.metrics import Metrics
from paceline.gateway.settings import Settings
from paceline.process.logs import get_logger
from paceline.types.control import Route
from paceline.types.errors import TransportError
from paceline.types.facts import DriverLink
from paceline.types.ids import Epoch, InstanceId

log = get_logger(__name__)

Dial = Callable[[Route], FrontLink]
_Key = tuple[InstanceId, Epoch, str, str]


class Links:
    """One driver per route and epoch. `wake` is called when a stream must be looked after."""

    def __init__(
        self,
        dial: Dial,
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        self._dial = dial
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._wake = wake
        self._drivers: dict[_Key, Driver] = {}
        self._readers: dict[_Key, asyncio.Task[None]] = {}
        self._undialled: set[_Key] = set()
        """Routes to where no link can be made."""

    def driver(self, route: Route) -> Driver:
        return self._drivers[_key(route)]

    def usable(self, routes: Collection[Route]) -> list[Driver]:
        """Drivers of these routes that are in their line and being heard."""
        found = (self._drivers.get(_key(route)) for route in routes)
        limit = self._settings.link_silence_s
        return [d for d in found if d and not d.over and d.link.silence <= limit]

    @property
    def heard(self) -> tuple[DriverLink, ...]:
        """How long each driver has been silent."""
        return tuple(
            DriverLink(
                instance=driver.route.instance,
                epoch=driver.route.epoch,
                silence_s=driver.link.silence,
            )
            for driver in self._drivers.values()
            if not driver.over
        )

    def dial_new(self, routes: Collection[Route]) -> None:
        for route in routes:
            known = self._drivers.get(_key(route))
            if known is not None:
                known.route = route
            elif _key(route) not in self._undialled:
                self._dial_one(route)

    def hang_up_old(self, routes: Collection[Route]) -> None:
        """Ends links of lines that are over. A broken one is dialled anew while its route stands;
        one whose driver said that it closes is not."""
        routed = {_key(route) for route in routes}
        self._undialled &= routed
        for key, driver in tuple(self._drivers.items()):
            if not driver.streams and (driver.broken or key not in routed):
                self._hang_up(key)

    def renew(self) -> None:
        for driver in self._drivers.values():
            driver.renew()

    def close(self) -> None:
        for key in tuple(self._drivers):
            self._hang_up(key)

    def _dial_one(self, route: Route) -> None:
        try:
            link = self._dial(route)
        except Exception:  # a route that leads nowhere must not cost the others
            log.exception("a route cannot be dialled", route=route)
            self._undialled.add(_key(route))
            return
        pending = self._settings.max_pending_tokens
        driver = Driver(route, link, self._metrics, pending)
        self._drivers[_key(route)] = driver
        self._readers[_key(route)] = asyncio.create_task(
            self._read(driver), name=f"driver {route.instance} {route.epoch}"
        )

    def _hang_up(self, key: _Key) -> None:
        self._readers.pop(key).cancel()
        self._drivers.pop(key).link.close()

    async def _read(self, driver: Driver) -> None:
        try:
            while not driver.over:
                message = await driver.link.receive()
                if driver.heed(message, self._clock()):
                    self._wake()
        except TransportError as error:
            self._broke(driver, error)
        except Exception as error:  # one driver's nonsense must not end the others' streams
            log.exception("a driver's message could not be handled")
            self._broke(driver, error)

    def _broke(self, driver: Driver, error: Exception) -> None:
        log.warning("link to driver broke", instance=driver.route.instance, why=str(error))
        driver.broken = str(error) or type(error).__name__
        self._wake()


def _key(route: Route) -> _Key:
    return (route.instance, route.epoch, route.address, route.public_key)
