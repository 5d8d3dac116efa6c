"""What lies between machines: it loses, repeats, delays and reorders, and is cut between any two
places, in one direction or in both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from tests.simulation.clock import Clock
from tests.simulation.host import Host

WIRE_S = 0.001
"""What a message takes at best."""


class End:
    """Someone who takes messages, as long as the end is open."""

    def __init__(self, host: Host, take: Callable[[str, Any], object]) -> None:
        self.host = host
        self.take = take
        self.open = True


class Network:
    """`loss` and `repeat` are probabilities per message, `delay_s` the most that one is late.
    A connection keeps the order of its messages unless `shuffled`."""

    def __init__(self, clock: Clock, random: Random) -> None:
        self.loss = self.repeat = self.delay_s = 0.0
        self.shuffled = False
        self.lost = 0
        self._clock = clock
        self._random = random
        self._ends: dict[str, list[End]] = {}
        self._cuts: Counter[tuple[str, str]] = Counter()
        self._last_at: dict[tuple[str, str], float] = {}

    # --- who is on it ----------------------------------------------------------------------------

    def join(self, name: str, host: Host, take: Callable[[str, Any], object]) -> End:
        """Several may have one name (an old controller and a new one): each gets every message."""
        end = End(host, take)
        self._ends.setdefault(name, []).append(end)
        return end

    def leave(self, name: str, end: End) -> None:
        end.open = False
        ends = self._ends.get(name, [])
        if end in ends:
            ends.remove(end)

    # --- cuts ------------------------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        """Nothing passes that way until it was mended as often as it was cut."""
        self._cuts[source, target] += 1

    def mend(self, source: str, target: str) -> None:
        self._cuts[source, target] -= 1
        if self._cuts[source, target] <= 0:
            del self._cuts[source, target]

    def passes(self, source: str, target: str) -> bool:
        return source == target or (source, target) not in self._cuts

    # --- messages --------------------------------------------------------------------------------

    def send(self, place: str, sender: str, to: str, message: Any) -> None:
        for end in tuple(self._ends.get(to, ())):
            if self._is_lost(place, end.host.name):
                self.lost += 1
                continue
            self._carry(end, sender, to, message)
            if self.repeat and self._random.random() < self.repeat:
                self._carry(end, sender, to, message)

    @property
    def now(self) -> float:
        return self._clock.now

    def calm(self) -> None:
        """From now on it is a good network, cuts apart."""
        self.loss = self.repeat = self.delay_s = 0.0
        self.shuffled = False

    def _is_lost(self, source: str, target: str) -> bool:
        if (source, target) in self._cuts and source != target:
            return True
        return bool(self.loss) and self._random.random() < self.loss

    def _carry(self, end: End, sender: str, to: str, message: Any) -> None:
        at = self._clock.now + WIRE_S
        if self.delay_s:
            at += self._random.uniform(0.0, self.delay_s)
        if not self.shuffled:
            connection = (sender, to)
            at = self._last_at[connection] = max(at, self._last_at.get(connection, 0.0))
        self._clock.at(at, self._deliver, end, sender, message)

    def _deliver(self, end: End, sender: str, message: Any) -> None:
        if end.open:
            end.host.reach(end.take, sender, message)
