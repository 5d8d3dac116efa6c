"""A node: a machine with an agent, which is the real roster over simulated processes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

from paceline.cluster.agents import agent_identity
from paceline.cluster.node.agent import LEAVE_S
from paceline.cluster.node.roster import Roster
from paceline.process.spawn import Child
from paceline.transport.probe import BAD_AFTER, EVERY_S, GIVE_UP_S, NEVER_AFTER
from paceline.types.control import Kill, Launch, NodeBeat, Peers, Reserve
from paceline.types.facts import NodeFacts
from paceline.types.ids import NodeName, RunnerId
from paceline.types.links import Link, ProbeOffer
from tests.simulation.host import Host
from tests.simulation.network import End
from tests.simulation.runner import Cause, SimRunner

if TYPE_CHECKING:
    from tests.simulation.world import World

BEAT_S = 0.5
BACK_S = 1.0
"""From the end of a node that has left until it is there again."""


class Sounding:
    """What a node knows of the way to a peer, as `paceline.transport.probe` finds it out."""

    def __init__(self) -> None:
        self.is_measured = False
        self.failures = 0
        self._due_at = 0.0

    @property
    def is_bad(self) -> bool:
        return self.failures >= (BAD_AFTER if self.is_measured else NEVER_AFTER)

    def look(self, now: float, answers: bool) -> None:
        if now < self._due_at:
            return
        if answers:
            self.is_measured, self.failures, self._due_at = True, 0, now + EVERY_S
        else:
            self.failures += 1
            self._due_at = now + 2 * GIVE_UP_S


class SimNode:
    def __init__(self, world: World, name: str, memory_bytes: int, blanks: int) -> None:
        self.world = world
        self.name = name
        self.memory_bytes = memory_bytes
        self.blanks = blanks
        self.host = Host(world.clock, name)
        self.runners: dict[RunnerId, SimRunner] = {}
        """Processes that live, by name."""
        self.incarnation = ""
        self.is_lost = False
        """It never boots again."""
        self._boots = 0
        self._end: End | None = None
        self.boot()

    @property
    def up(self) -> bool:
        return self.host.up

    @property
    def identity(self) -> str:
        return agent_identity(self.name, self.incarnation)

    def boot(self) -> None:
        """A new incarnation; one that is up already stays as it is."""
        if self._end is not None or self.is_lost:
            return
        self._boots += 1
        self.incarnation = f"{self.name}.{self._boots}"
        self.started_at = self.world.clock.now
        self.leave_at: float | None = None
        """When it ends, whatever is left, because it was asked to."""
        self.host.boot()
        self.roster = Roster(self.incarnation, self.memory_bytes, self._start)
        self._orders: dict[type, Any] = {
            Launch: self.roster.launch,
            Reserve: self.roster.reserve,
            Kill: self.roster.kill,
            Peers: self._meet,
        }
        self.soundings: dict[NodeName, Sounding] = {}
        self._end = self.world.network.join(self.identity, self.host, self._take)
        self._beat_due, self._look_at, self._beats = 0.0, math.inf, 0
        self.look_soon()

    def leave(self) -> bool:
        """As an agent after SIGTERM: it ends when it is empty, or after a while, and comes back
        as another incarnation. False if it is down."""
        if self._end is None:
            return False
        if self.leave_at is None:
            self.leave_at = self.world.clock.now + LEAVE_S
            self._beat_due = 0.0
            self.look_soon()
        return True

    def _leave_if_empty(self, now: float) -> bool:
        if self.leave_at is None or (self.roster.processes and now < self.leave_at):
            return False
        self.world.note("{} leaves", self.name)
        self.crash()
        self.world.clock.after(BACK_S, self.boot)
        return True

    def crash(self) -> None:
        if self._end is None:
            return
        self.world.network.leave(self.identity, self._end)
        self._end = self.leave_at = None
        for runner in tuple(self.runners.values()):
            runner.end(-9, Cause.NODE_LOST)
        self.runners.clear()
        self.host.crash()

    def look_soon(self) -> None:
        self._wake(self.world.clock.now)

    def _start(self, name: RunnerId) -> Child:
        runner = self.runners[name] = SimRunner(self.world, self, name)
        self.world.watch.started(runner)
        return cast(Child, runner)

    def _take(self, sender: str, message: Any) -> None:
        self.world.watch.ordered(self, message)
        self.look_soon()

    def obey(self, order: Any) -> None:
        self._orders[type(order)](order)

    def _meet(self, order: Peers) -> None:
        if order.incarnation == self.incarnation and order.term >= self.roster.term:
            known = self.soundings
            self.soundings = {
                name: known.get(name) or Sounding()
                for name in order.measure
                if name != self.name and name in self.world.nodes
            }

    def _sound(self, now: float) -> tuple[Link, ...]:
        """Whether what is sent to each peer comes back."""
        for name, sounding in self.soundings.items():
            sounding.look(now, self._is_answered(name))
        return tuple(
            Link(a=self.name, b=name, bad=sounding.is_bad)
            for name, sounding in self.soundings.items()
            if sounding.is_measured or sounding.is_bad
        )

    def _is_answered(self, peer: str) -> bool:
        passes = self.world.network.passes
        return (
            self.world.nodes[peer].host.runs and passes(self.name, peer) and passes(peer, self.name)
        )

    @property
    def knows_its_links(self) -> bool:
        """Those that are dead for good are known to be bad."""
        return all(
            sounding.is_bad or self._is_answered(name) or not self.world.nodes[name].up
            for name, sounding in self.soundings.items()
        )

    def _wake(self, at: float) -> None:
        if at < self._look_at:
            self._look_at = at
            self.host.at(at, self._look, at)

    def _look(self, planned: float) -> None:
        if planned != self._look_at:
            return  # an earlier look has taken its place
        self._look_at = math.inf
        changed = self.roster.tick()
        for name in [name for name, runner in self.runners.items() if not runner.alive]:
            del self.runners[name]
        now = self.world.clock.now
        if self._leave_if_empty(now):
            return
        if changed or now >= self._beat_due:
            self._beat_due = now + BEAT_S * self.host.slowness
            self._beats += 1
            beat = NodeBeat(self.facts(), number=self._beats)
            self.world.network.send(self.name, self.identity, "controller", beat)
        self._wake(self._beat_due)

    def facts(self) -> NodeFacts:
        return NodeFacts(
            name=self.name,
            incarnation=self.incarnation,
            cluster_id=self.world.cluster_id,
            pid=1,
            host=self.name,
            cpus=2,
            memory_bytes=self.memory_bytes,
            started_at=self.started_at,
            blanks=self.blanks,
            probe=ProbeOffer(address=f"probe:{self.incarnation}", public_key=self.incarnation),
            links=self._sound(self.world.clock.now),
            processes=self.roster.processes,
            exits=self.roster.exits,
            term=self.roster.term,
            leaving=self.leave_at is not None,
        )
