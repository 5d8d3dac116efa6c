"""What can befall a cluster that serves: each blow strikes a line of one instance, and returns when
it is struck. Sixteen clients must not notice."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from tests.support.cluster import LocalCluster

Blow = Callable[["Striker"], None]
MOVED_S = 60.0


class Striker:
    """Strikes one instance. Seeded."""

    def __init__(self, cluster: LocalCluster, name: str, seed: int) -> None:
        self.cluster = cluster
        self.name = name
        self.dice = random.Random(seed)
        self.struck: list[str] = []

    def strike(self, blow: Blow) -> None:
        self.struck.append(blow.__name__)
        blow(self)

    def pause(self, least_s: float, most_s: float) -> None:
        time.sleep(self.dice.uniform(least_s, most_s))

    def victims(self, count: int = 1) -> list[int]:
        """Pids of runners on its seats, any of them, whatever they are at."""

        def found() -> list[int]:
            runners = self.cluster.instance(self.name)["runners"]
            return [runner["pid"] for runner in runners if runner["pid"]]

        enough = lambda: len(found()) >= count  # noqa: E731
        self.cluster.wait(f"{count} runners", enough)
        return self.dice.sample(found(), count)

    def node(self) -> str:
        """One that holds a seat."""
        runners = self.cluster.wait("seats", lambda: self.cluster.instance(self.name)["runners"])
        return str(self.dice.choice(runners)["node"])

    def hit(self, pids: list[int], number: signal.Signals = signal.SIGKILL) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):  # it may just have ended by itself
                os.kill(pid, number)


def kill(s: Striker) -> None:
    s.hit(s.victims())


def stop(s: Striker) -> None:
    s.hit(s.victims(), signal.SIGSTOP)


def kill_two_at_once(s: Striker) -> None:
    s.hit(s.victims(2))


def kill_again_while_it_recovers(s: Striker) -> None:
    s.hit(s.victims())
    recovers = lambda: s.cluster.instance(s.name)["state"] != "ready"  # noqa: E731
    s.cluster.wait("it to recover", recovers)
    s.pause(0.0, 0.8)
    s.hit(s.victims())


def lose_node(s: Striker) -> None:
    (supervisor,) = s.cluster.processes(f"--node {s.node()} --memory")
    supervisor.kill()


def kill_controller_then_runner(s: Striker) -> None:
    victims = s.victims()
    (controller,) = s.cluster.processes("paceline.controller")
    controller.kill()
    s.pause(0.0, 0.5)
    s.hit(victims)


def drain(s: Striker) -> None:
    """And let it be used again, once nothing is left on it."""
    node = s.node()
    s.cluster.api.post(f"/api/nodes/{node}/drain", {})
    s.cluster.wait(f"{node} to be empty", lambda: not _runners(s.cluster, node), MOVED_S)
    s.cluster.api.delete(f"/api/nodes/{node}/drain")


def restart_node(s: Striker) -> None:
    """As a rolling restart does it: SIGTERM, and wait until it is there again."""
    node = s.node()
    before = _incarnation(s.cluster, node)
    (supervisor,) = s.cluster.processes(f"--node {node} --memory")
    supervisor.terminate()
    back = lambda: _incarnation(s.cluster, node) != before  # noqa: E731
    s.cluster.wait(f"{node} to be back", back, MOVED_S)


BLOWS: tuple[Blow, ...] = (
    kill,
    stop,
    lose_node,
    kill_controller_then_runner,
    drain,
    restart_node,
    kill_two_at_once,
    kill_again_while_it_recovers,
)


def _runners(cluster: LocalCluster, node: str) -> list[str]:
    return next(list(n["runners"]) for n in cluster.api.get("/api/nodes") if n["name"] == node)


def _incarnation(cluster: LocalCluster, node: str) -> str:
    return next(str(n["incarnation"]) for n in cluster.api.get("/api/nodes") if n["name"] == node)
