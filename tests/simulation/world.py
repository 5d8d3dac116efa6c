"""All of it: the clock, the network, nodes, gateway and controllers, and who watches them."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from msgspec.structs import replace

from paceline.controller.book import InstanceBook
from paceline.controller.controller import Controller
from paceline.controller.events import EventLog
from paceline.controller.store import Store
from paceline.types.control import Event, Routes
from paceline.types.errors import Unavailable
from paceline.types.ids import NodeName
from paceline.types.instance import InstanceWish
from paceline.types.states import InstanceState, RunnerState
from paceline.types.timing import DEFAULT_TIMING, Timing
from tests.simulation.clock import Clock
from tests.simulation.controllers import SimController
from tests.simulation.disk import Disk
from tests.simulation.gateway import SimGateway
from tests.simulation.host import Host
from tests.simulation.invariants import Watch
from tests.simulation.line import DataPlane
from tests.simulation.models import CLUSTER, GIB, Pulled
from tests.simulation.network import Network
from tests.simulation.node import SimNode
from tests.simulation.runner import SimRunner

CONTROL = "control"
"""Where controllers run."""
GATEWAY = "g"
LOOK_S = 0.25
"""How often `run` asks whether what it waits for has come."""
NOTES = 400


class World:
    def __init__(
        self,
        *,
        seed: int = 0,
        nodes: int = 2,
        memory_gib: float | tuple[float, ...] = 2.0,
        blanks: int = 0,
        pace_s: float = 0.1,
        models: Any = None,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        """`memory_gib` of all nodes, or of each; `blanks`: how many runners each keeps ready."""
        self.random = Random(seed)
        self.clock = Clock()
        self.timing = timing
        self.cluster_id = CLUSTER
        self.models = models or Pulled(self.clock)
        self.task_failures = 0.0
        """Probability that a fetch or load fails."""
        self.pids = itertools.count(1000)
        self.numbers, self.streams = itertools.count(1), itertools.count()
        self.notes: deque[tuple[float, str, tuple[object, ...]]] = deque(maxlen=NOTES)
        self.log: deque[Event] = deque(maxlen=NOTES)
        """What all controllers have said, the last of it; `said` counts all of it."""
        self.said = 0
        self.watch = Watch(self)
        self.network = Network(self.clock, self.random)
        self.plane = DataPlane(self.network)
        self.disk = Disk()
        sizes = memory_gib if isinstance(memory_gib, tuple) else (memory_gib,) * nodes
        self.nodes = {
            name: SimNode(self, name, int(size * GIB), blanks)
            for name, size in zip((f"node-{n}" for n in range(1, nodes + 1)), sizes, strict=True)
        }
        self.gateway = SimGateway(self, GATEWAY)
        self.pace_s = pace_s
        self.control_host = Host(self.clock, CONTROL)
        self.controllers: list[SimController] = []
        """Those that live, the newest last."""
        self.start_controller()

    @property
    def now(self) -> float:
        return self.clock.now

    def note(self, words: str, *about: object) -> None:
        """For the trace of a schedule."""
        self.notes.append((self.clock.now, words, about))

    # --- the controller --------------------------------------------------------------------------

    def start_controller(self) -> SimController:
        """A new one; what ran before goes on unless it was stopped."""
        self._newest = SimController(self, self.control_host, self.pace_s)
        self.controllers.append(self._newest)
        self.note("the controller of term {} starts", self.controller.book.term)
        return self._newest

    def stop_controller(self, which: SimController | None = None) -> None:
        stopped = which or self._newest
        stopped.die()
        if stopped in self.controllers:
            self.controllers.remove(stopped)

    @property
    def controller(self) -> Controller:
        """The newest one's."""
        return self._newest.controller

    @property
    def events(self) -> EventLog:
        return self._newest.events

    @property
    def store(self) -> Store:
        return self.disk.store

    @property
    def routes(self) -> Routes | None:
        """As the gateway knows them."""
        return self.gateway.routes

    @property
    def answers(self) -> bool:
        """Whether there is a controller to talk to."""
        return self._newest.alive and self.control_host.runs

    def restart_gateway(self) -> None:
        """Another process, with other keys, and without the streams of the one before."""
        self.gateway.die()
        self.gateway = SimGateway(self, GATEWAY)

    # --- what users do ---------------------------------------------------------------------------

    def want(self, model: str = "smol", **options: Any) -> str | None:
        """The instance's name; None if the wish cannot be kept, or there is nobody to tell."""
        name = f"i-{next(self.numbers)}"
        wish = InstanceWish(id=name, model=model, **options)
        return name if self._tell(wish) else None

    def unwant(self, name: str) -> bool:
        inst = self.controller.book.instances.get(name)
        return inst is not None and self._tell(replace(inst.wish, deleted=True))

    def drain(self, node: str, drained: bool) -> bool:
        """Whether a controller could be told, and has written it down."""
        if not self.answers:
            return False
        try:
            self.store.drain(NodeName(node), drained)
        except Unavailable:
            return False
        book = self.controller.book
        (book.drained.add if drained else book.drained.discard)(NodeName(node))
        self.note("{} is {}", node, "to be empty" if drained else "open again")
        return True

    def _tell(self, wish: InstanceWish) -> bool:
        """As `paceline.controller.api` does: on disk first, then in the book."""
        if not self.answers:
            return False
        try:
            self.store.put(wish)
        except Unavailable:
            return False
        instances = self.controller.book.instances
        known = instances.get(wish.id)
        instances[wish.id] = replace(known, wish=wish) if known else InstanceBook(wish=wish)
        self.note("{} is {}", wish.id, "unwanted" if wish.deleted else f"wanted: {wish}")
        return True

    # --- time ------------------------------------------------------------------------------------

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Lets time pass; True as soon as `until` holds."""
        end = self.clock.now + seconds
        while not until():
            if self.clock.now >= end:
                return False
            self.clock.run(min(end, self.clock.now + LOOK_S))
        return True

    # --- what is there ---------------------------------------------------------------------------

    def runners(self) -> Iterator[SimRunner]:
        for node in self.nodes.values():
            for runner in node.runners.values():
                if runner.alive:
                    yield runner

    def runner(self, name: str | None) -> SimRunner | None:
        for node in self.nodes.values():
            found = node.runners.get(name)  # type: ignore[arg-type]
            if found is not None and found.alive:
                return found
        return None

    def state(self, name: str) -> str:
        inst = self.controller.book.instances.get(name)
        return inst.state if inst else "gone"

    def all_ready(self) -> bool:
        """Ready by the book, and truly."""
        return all(self.is_ready(inst) for inst in self.controller.book.instances.values())

    def is_ready(self, inst: InstanceBook) -> bool:
        """Book, ranks and route agree: a line of living ranks stands, and a route leads there."""
        if inst.state is not InstanceState.READY:
            return False
        ranks = [self.runner(seat.runner) for seat in inst.seats]
        for seat, runner in zip(inst.seats, ranks, strict=True):
            if runner is None or not runner.works or runner.state is not RunnerState.READY:
                return False
            if runner.rank is None or runner.rank.epoch != inst.epoch:
                return False
            if runner.seat_task is None or runner.seat_task.shard != seat.plan.shard:
                return False
        driver = ranks[0].rank if ranks[0] else None
        if driver is None or len(self.plane.ring(driver)) != len(ranks):
            return False
        routes = self.routes.routes if self.routes else ()
        return any(
            route.instance == inst.id
            and route.epoch == inst.epoch
            and route.address == driver.offer.front_address
            for route in routes
        )

    def sentences(self) -> list[str]:
        return [event.sentence for event in self.events.since(0)]

    def told(self, last: int = 80) -> str:
        """The last events, for whoever looks into a failure."""
        events = list(self.events.since(0))[-last:]
        return "\n".join(f"{event.at:.2f} [{event.kind}] {event.sentence}" for event in events)
