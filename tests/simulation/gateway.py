"""A gateway: the real stream records, drivers, routes and recovery, on links of the simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from paceline.gateway.court import EndsItsLine
from paceline.gateway.driver import Driver, LiveStream
from paceline.gateway.drivers import Drivers
from paceline.gateway.links import Links, _key
from paceline.gateway.metrics import Metrics
from paceline.gateway.settings import Settings
from paceline.gateway.streams import Stream
from paceline.gateway.text import StopText
from paceline.types.control import GatewayBeat, Route, Routes
from paceline.types.facts import GatewayFacts
from paceline.types.ids import GatewayId, StreamId
from paceline.types.stream import FromDriver, SamplingParams, ToDriver
from tests.simulation.driver import token_at
from tests.simulation.host import Host

if TYPE_CHECKING:
    from tests.simulation.world import World

BEAT_S = 0.5
LOOK_S = 0.25
SETTINGS = Settings(stall_s=6.0, route_wait_s=1e6, gone_s=1e6, request_s=1e9)
"""Streams here never give up: whether they end is what is asked."""

METRICS = Metrics()


class Characters:
    """A detokenizer: one character per token."""

    def add(self, token_id: int) -> str:
        return chr(0x100 + token_id)

    def finish(self) -> str:
        return ""


class SimLink:
    """The gateway's end of a driver's front."""

    def __init__(self, gateway: SimGateway, route: Route) -> None:
        self._gateway = gateway
        self._route = route
        self._heard_at = gateway.world.clock.now
        self.driver: Driver | None = None

    @property
    def silence(self) -> float:
        now = self._gateway.world.clock.now
        if self._is_heard():
            self._heard_at = now
        return now - self._heard_at

    def send(self, message: ToDriver) -> None:
        gateway = self._gateway
        gateway.world.network.send(
            gateway.host.name, gateway.identity, self._route.address, message
        )

    async def receive(self) -> FromDriver:
        raise NotImplementedError  # messages are handed to the driver as they come

    def close(self) -> None:
        self._gateway.links.pop(self._route.address, None)

    def _is_heard(self) -> bool:
        world, here = self._gateway.world, self._gateway.host.name
        rank = world.plane.doors.get(self._route.address.removeprefix("front:"))
        if rank is None or rank.driver is None or not rank.runner.pumps:
            return False
        there = rank.runner.host.name
        passes = world.network.passes(here, there) and world.network.passes(there, here)
        return passes and self._gateway.identity in rank.driver.admitted


class SimLinks(Links):
    """Without tasks that read: what a driver says is handed over by the network."""

    def _dial_one(self, route: Route) -> None:
        link = cast(SimLink, self._dial(route))
        driver = Driver(route, link, self._metrics, self._settings.max_pending_tokens)
        link.driver = self._drivers[_key(route)] = driver

    def _hang_up(self, key: Any) -> None:
        self._drivers.pop(key).link.close()


class SimDrivers(Drivers):
    links_kind = SimLinks


class Client:
    """One stream, and what its reader got of it."""

    def __init__(self, world: World, name: str, model: str, tokens: int) -> None:
        self.name = StreamId(name)
        self.tokens = tokens
        self.got: list[int] = []
        self.text = ""
        self.ended = False
        self._world = world
        stream = Stream(
            stream_id=self.name,
            prompt_ids=(1, 2, 3),
            params=SamplingParams(max_tokens=tokens, seed=1),
            end_ids=frozenset({0}),
            detokenizer=Characters(),
            stops=StopText(()),
        )
        self.live = LiveStream(
            stream, model=model, now=world.clock.now, deadline=float("inf"), wake=self._read
        )

    @property
    def expected(self) -> list[int]:
        return [token_at(self.name, position) for position in range(self.tokens)]

    def _read(self) -> None:
        delta = self.live.stream.take()
        if delta is not None:
            self.got += delta.ids
            self.text += delta.text
            self.ended = delta.finish_reason is not None
            self._world.watch.read(self)
        if isinstance(self.live.error, EndsItsLine):
            # Chance killed its lines as often as guilt would have.
            self.ended = True


class SimGateway:
    """One process at `place`, from its start until `die`; its clients go with it."""

    def __init__(self, world: World, place: str) -> None:
        self.world = world
        self.host = Host(world.clock, place)
        self.name = GatewayId(f"{place}-{next(world.pids)}")
        self.identity = f"gateway:{self.name}"
        self.routes: Routes | None = None
        self.clients: list[Client] = []
        self.links: dict[str, SimLink] = {}
        """By the address of the driver's front."""
        self.drivers = SimDrivers(self._dial, SETTINGS, METRICS, world.clock)
        self._end = world.network.join(self.identity, self.host, self._take)
        self._look_planned = False
        self._beats = 0
        self._beat()

    def die(self) -> None:
        self.world.network.leave(self.identity, self._end)
        self.host.crash()

    def open_stream(self, model: str, tokens: int) -> Client:
        client = Client(self.world, f"s-{next(self.world.streams)}", model, tokens)
        self.clients.append(client)
        self.drivers.carry([client.live])
        self._look_soon()
        return client

    def _dial(self, route: Route) -> SimLink:
        link = self.links[route.address] = SimLink(self, route)
        return link

    def _take(self, sender: str, message: Any) -> None:
        if isinstance(message, Routes):
            self.world.watch.routed(self, message)
            self._look_soon()
        elif sender.startswith("front:"):
            link = self.links.get(sender)
            if link is not None and link.driver is not None and not link.driver.over:
                link.driver.heed(message, self.world.clock.now)
                self._look_soon()

    def heed(self, routes: Routes) -> None:
        if self.drivers.table.heed(routes):
            self.routes = routes

    def _look_soon(self) -> None:
        if not self._look_planned:
            self._look_planned = True
            self.host.at(self.world.clock.now, self._look)

    def _look(self) -> None:
        self._look_planned = False
        self.drivers.look()
        if self.drivers.streams:
            self._look_planned = True
            self.host.after(LOOK_S, self._look)

    def _beat(self) -> None:
        self.drivers.look()
        facts = GatewayFacts(
            gateway_id=self.name,
            pid=1,
            url="u",
            public_key=self.identity,
            streams=self.drivers.streams,
            links=self.drivers.links,
            term=self.drivers.table.term,
        )
        self._beats += 1
        beat = GatewayBeat(facts, number=self._beats)
        self.world.network.send(self.host.name, self.identity, "controller", beat)
        self.host.after(BEAT_S, self._beat)
