"""A line over two of three machines, which sixteen clients use while something happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.support.choir import Choir, Voice, requests
from tests.support.machines import Fleet

TOKENS = 40
CLEAN_S = 45.0
"""Within which nothing may be left of what is over: 30 s, and slack for a busy machine."""


Rank = tuple[int, tuple[int, int]]
"""The pid that sits on a seat, and the layers that it holds."""


class LineSeen(NamedTuple):
    """A line that is ready; its ranks by node."""

    ranks: dict[str, Rank]
    epoch: list[int]

    def pid(self, node: str) -> int:
        return self.ranks[node][0]


class Stage:
    """Ranks 0 and 1 are on `second` and `third` in either order; `first`, the head, is to spare."""

    def __init__(self, cluster: Fleet) -> None:
        self.cluster = cluster
        cluster.drain("first")
        # How fast a machine seems to be, while others work on it too, moves no layers.
        wish = {"min_nodes": 2, "max_nodes": 2, "kv_tokens": 8192, "objective": "memory"}
        self.name = cluster.create(**wish)
        cluster.ready(self.name)
        cluster.open_again("first")
        self.choir = Choir(cluster.api, requests(TOKENS))

    def set(self) -> None:
        """As it was in the beginning."""
        self.cluster.wait_nodes(*self.cluster.machines)
        if set(self.pids()) != {"second", "third"}:
            self.cluster.drain("first")
            at_home = lambda: set(self.pids()) == {"second", "third"}  # noqa: E731
            self.cluster.wait("the seats to leave the head", at_home)
            self.cluster.ready(self.name)
            self.cluster.open_again("first")
        self.cluster.ready(self.name)
        self.clean()

    def pids(self) -> dict[str, int]:
        """Of the runners on its seats, by node."""
        return {rank["node"]: rank["pid"] for rank in self.cluster.ranks(self.name).values()}

    def line(self) -> LineSeen:
        """Once it is ready."""
        found = self.cluster.ready(self.name)
        ranks = {
            runner["node"]: (runner["pid"], tuple(runner["layers"])) for runner in found["runners"]
        }
        return LineSeen(ranks, found["epoch"])

    def sing(self, happens: Callable[[], object], *through: str) -> float:
        """Sixteen clients at each of these gateways begin, it happens, and all are answered to the
        letter what they are in peace. Gives the moment at which it began to happen."""
        apis = [self.cluster.through(name) for name in through]
        rounds: list[list[Voice]] = [self.choir.begin(api) for api in apis]
        self.cluster.wait("most voices to be heard", lambda: all(map(_is_heard, rounds)))
        at = time.time()
        happens()
        for voices in rounds:
            self.choir.verify(voices, happens)
        return at

    def sing_for(self, seconds: float, *through: str) -> None:
        """Again and again."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.sing(lambda: None, *through)

    def clean(self, *but: str) -> None:
        """Waits until every machine, but those, has the runners that the controller knows of and
        that it needs: one on each seat, and a spare one; no other process of a runner."""
        machines = [each for name, each in self.cluster.machines.items() if name not in but]
        wanted = lambda: all(self._is_clean(each.name) for each in machines)  # noqa: E731
        self.cluster.wait(f"nothing to be left (but on {but})", wanted, CLEAN_S)

    def _is_clean(self, name: str) -> bool:
        known = [r for r in self.cluster.api.get("/api/runners") if r["node"] == name]
        seated = {runner["pid"] for runner in known if runner["seat"] is not None}
        wanted = {pid for node, pid in self.pids().items() if node == name}
        living = self.cluster.machines[name].runners()
        return living == {runner["pid"] for runner in known} and seated == wanted


class Watch:
    """What the controller has said since it was made."""

    def __init__(self, cluster: Fleet) -> None:
        self._cluster = cluster
        self._since = time.time()

    def moved(self, node: str, state: str) -> list[float]:
        """When the controller found the node in this state."""
        return [
            event["at"]
            for event in self._cluster.events()
            if event["at"] >= self._since
            and event["facts"].get("node") == node
            and event["facts"].get("state") == state
        ]

    def lost(self) -> set[str]:
        """Nodes that it took for lost."""
        return {name for name in self._cluster.machines if self.moved(name, "lost")}


def _is_heard(voices: Sequence[Voice]) -> bool:
    heard = sum(bool(voice.answer.ids) or not voice.goes_on for voice in voices)
    return heard >= len(voices) // 2
