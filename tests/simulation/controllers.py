"""The controller's process: the real controller, a mailbox, and a loop that takes its time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from paceline.cluster.agents import AgentCluster
from paceline.controller.actions import Action
from paceline.controller.controller import Controller, open_book
from paceline.types.control import Event
from tests.simulation.disk import SimEventLog
from tests.simulation.host import Host

if TYPE_CHECKING:
    from tests.simulation.world import World

PEER_MESSAGES = 128
"""Of one peer that wait; what comes beyond is dropped, as its sender is told."""


class SimController:
    """Lives until `die`. `pace_s` is the least time between two passes."""

    def __init__(self, world: World, host: Host, pace_s: float) -> None:
        self.world = world
        self.host = host
        self.alive = True
        self.events = SimEventLog(world.disk, world.clock, self._hear)
        self.controller = Controller(
            open_book(world.disk.store, world.cluster_id),
            world.disk.store,
            world.models,  # type: ignore[arg-type]
            self.events,
            AgentCluster(self._post),
            self._post,
            world.clock,
            world.timing,
        )
        self._tell_of_acts()
        self.pace_s = pace_s
        self._waiting: list[tuple[str, Any]] = []
        self._waiting_of: dict[str, int] = {}
        self._end = world.network.join("controller", host, self._take)
        self._turn_at = math.inf
        self._turned_at = self._started_at = world.clock.now
        world.watch.took_office(self)
        self._wake(world.clock.now)

    @property
    def is_settling(self) -> bool:
        """Has not had the time to hear all that lives."""
        return self.world.now - self._started_at <= self.world.timing.settle_s + self.pace_s

    def die(self) -> None:
        if self.alive:
            self.alive = False
            self.world.network.leave("controller", self._end)
            self.world.note("the controller of term {} dies", self.controller.book.term)

    def _tell_of_acts(self) -> None:
        actor = self.controller._actor
        act = actor.act

        def act_and_tell(action: Action, now: float) -> None:
            act(action, now)
            self.world.watch.acted(self, action)

        actor.act = act_and_tell  # type: ignore[method-assign]

    def _post(self, peer: str, message: Any) -> bool:
        self.world.network.send(self.host.name, "controller", peer, message)
        return True

    def _hear(self, event: Event) -> None:
        self.world.log.append(event)
        self.world.said += 1
        self.world.watch.logged(self, event)

    def _take(self, sender: str, message: Any) -> None:
        waiting = self._waiting_of.get(sender, 0)
        if waiting < PEER_MESSAGES:
            self._waiting_of[sender] = waiting + 1
            self._waiting.append((sender, message))
            self._wake(self._turned_at + self.pace_s)

    def _wake(self, at: float) -> None:
        at = max(at, self.world.clock.now)
        if at < self._turn_at:
            self._turn_at = at
            self.host.at(at, self._turn, at)

    def _turn(self, planned: float) -> None:
        if planned != self._turn_at or not self.alive:
            return
        self._turn_at = math.inf
        now = self._turned_at = self.world.clock.now
        self.controller.wake()
        waiting, self._waiting = self._waiting, []
        self._waiting_of.clear()
        for sender, message in waiting:
            self.controller.take(sender, message)
        next_wake = self.controller.step()
        if self.controller.deposed:
            self.world.stop_controller(self)
            return
        self.world.watch.turned(self)
        longest = now + self.world.timing.longest_wait_s
        self._wake(max(now + self.pace_s, min(next_wake, longest)))
