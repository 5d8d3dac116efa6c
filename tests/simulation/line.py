"""The data plane: doors, links between neighbours, and steps that go all the way round or not at
all. Beats on links are not sent one by one: who pumps and can be reached is heard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paceline.types.control import Line
from paceline.types.facts import LineHealth, LinkOffer
from paceline.types.tasks import Connect
from tests.simulation.driver import SimDriver
from tests.simulation.network import Network

if TYPE_CHECKING:
    from tests.simulation.runner import SimRunner

SILENCE_S = 3.0
STALL_S = 1.0
"""As in `paceline.runner.line`."""

STEP_S = 0.25

BEFORE, AFTER = -1, 1


class SimRank:
    """What one runner has of its line, in one epoch. Rank 0 also has the driver."""

    def __init__(self, runner: SimRunner, task: Connect, door: str, plane: DataPlane) -> None:
        self.runner = runner
        self.epoch = task.epoch
        self.rank = task.seat.rank
        self.size = task.world_size
        self.door = door
        self.steps = 0
        self.neighbours: dict[int, str] = {}
        """The doors of both neighbours, once the line has met."""
        self.linked: set[int] = set()
        self.heard_at: dict[int, float] = {}
        self.closed = False
        self.driver = SimDriver(self, plane.network) if self.rank == 0 else None
        self._plane = plane
        self._pumped_at = plane.now
        self._stepping = False
        plane.doors[door] = self

    @property
    def offer(self) -> LinkOffer:
        return LinkOffer(
            epoch=self.epoch,
            rank=self.rank,
            address=self.door,
            public_key=self.door,
            front_address=f"front:{self.door}" if self.driver else None,
        )

    @property
    def health(self) -> LineHealth:
        now = self._plane.now
        silence = {
            side: now - at for side, at in self.heard_at.items() if not self._hears(side)
        } | {side: 0.0 for side in self.heard_at if self._hears(side)}
        return LineHealth(
            upstream_silence_s=silence.get(BEFORE),
            downstream_silence_s=silence.get(AFTER),
            steps=self.steps,
        )

    @property
    def established(self) -> bool:
        return self.size == 1 or len(self.linked) == 2

    def meet(self, order: Line) -> None:
        if self.driver is not None:
            self.driver.admitted = order.gateway_keys
        offers = {offer.rank: offer.address for offer in order.offers}
        if self.size > 1 and not self.neighbours and len(offers) == self.size:
            for side in (BEFORE, AFTER):
                self.neighbours[side] = offers[(self.rank + side) % self.size]

    def pump(self) -> str:
        """Listens to both neighbours; says why the line is lost, if it is."""
        now = self._plane.now
        stalled, self._pumped_at = now - self._pumped_at > STALL_S, now
        for side in self.neighbours:
            if self._hears(side):
                self._heard(side, now)
            elif side in self.heard_at and not stalled:
                silence = now - self.heard_at[side]
                if silence > SILENCE_S:
                    neighbour = (self.rank + side) % self.size
                    return f"rank {neighbour} has been silent for {silence:.1f} s"
        self._step_soon()
        return ""

    def close(self, reason: str) -> None:
        if not self.closed:
            self.closed = True
            del self._plane.doors[self.door]
            if self.driver is not None:
                self.driver.close(reason)

    def _hears(self, side: int) -> bool:
        neighbour = self._plane.neighbour(self, side)
        return neighbour is not None and self._plane.speaks(neighbour, self)

    def _heard(self, side: int, now: float) -> None:
        neighbour = self._plane.neighbour(self, side)
        assert neighbour is not None
        self.heard_at[side] = now
        if side not in self.linked and self._plane.speaks(self, neighbour):
            self.linked.add(side)
            neighbour.linked.add(-side)
            neighbour.heard_at[-side] = now
            neighbour.runner.look_soon()

    # --- steps -----------------------------------------------------------------------------------

    def _step_soon(self) -> None:
        """Steps go round as long as the driver has something to do."""
        if self.driver is not None and self.driver.is_busy and not self._stepping:
            self._stepping = True
            self.runner.host.after(STEP_S, self._step)

    def _step(self) -> None:
        self._stepping = False
        if self.closed or self.driver is None or not self.runner.pumps:
            return
        ring = self._plane.ring(self)
        for rank in ring:
            rank.runner.pulse.begin("step")
            rank.runner.pulse.end()
            rank.steps += 1
            if rank.steps == 1:
                rank.runner.look_soon()
        if ring:
            self.driver.emit()
        self._step_soon()


class DataPlane:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.doors: dict[str, SimRank] = {}

    @property
    def now(self) -> float:
        return self.network.now

    def neighbour(self, rank: SimRank, side: int) -> SimRank | None:
        """Who is behind the neighbour's door, if it is open and admits this rank."""
        there = self.doors.get(rank.neighbours.get(side, ""))
        mutual = there is not None and there.neighbours.get(-side) == rank.door
        return there if mutual else None

    def speaks(self, source: SimRank, target: SimRank) -> bool:
        here, there = source.runner.host.name, target.runner.host.name
        return source.runner.pumps and self.network.passes(here, there)

    def ring(self, driver: SimRank) -> list[SimRank]:
        """All ranks, if a step can go round now: every link is made, passes, and everyone
        computes. Empty if not."""
        ring = [driver]
        while True:
            here = ring[-1]
            if not (here.established and here.runner.works):
                return []
            if here.size == 1:
                return ring
            there = self.neighbour(here, AFTER)
            if there is None or not self.speaks(here, there):
                return []
            if there is driver:
                return ring
            ring.append(there)
