"""Killing a rank in a state of one's choice, by its own log: a state lasts milliseconds, and the
last line that a process wrote says in which one it died."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import Any

from tests.support.cluster import LocalCluster, read_lines
from tests.support.streams import Stream, body

TRIES = 8
LOOK_S = 0.001
WAIT_S = 30.0
LEFT_ALONE_S = 1.7
"""Silence after which the controller asks nothing more of a runner, and has not lost it yet."""


class Missed(Exception):
    """The victim had moved on before it was hit."""


class Hunter:
    """Kills rank `rank` of a two-rank instance."""

    def __init__(self, cluster: LocalCluster, name: str, rank: int) -> None:
        self.cluster = cluster
        self.name = name
        self.rank = rank

    def kill_in(self, state: str) -> None:
        """Tries until it has died in that state, and waits until the line stands again."""
        for _ in range(TRIES):
            epoch, hit = self.cluster.ready(self.name)["epoch"], False
            with suppress(Missed):
                _RECIPES[state](self)
                hit = True
            self.cluster.ready(self.name, after=epoch)
            if hit:
                return
        raise AssertionError(f"rank {self.rank} was never hit while it was {state}")

    # --- recipes ---------------------------------------------------------------------------------

    def ready(self) -> None:
        self._hit(self._who(), "ready")

    def loading(self) -> None:
        self._hit(self._successor(), "loading")

    def warming(self) -> None:
        self._hit(self._successor(), "warming")

    def connecting(self) -> None:
        """Its neighbour stands still, so it stays there."""
        successor = self._successor()
        self._until(successor["id"], "loading")
        with self._stopped(self._who(1 - self.rank)["pid"]):
            self._hit(successor, "connecting")

    def loaded(self) -> None:
        """Its neighbour is silent, so it is not asked to connect."""
        with self._stopped(self._who(1 - self.rank)["pid"]):
            time.sleep(LEFT_ALONE_S)
            self._hit(self._successor(), "loaded")

    def draining(self) -> None:
        """A stream keeps it there."""
        stream = Stream(self.cluster, body(tokens=150))
        stream.until(5)
        who = self._who()
        self.cluster.api.post(f"/api/runners/{who['id']}/tasks?wait=0", {"kind": "drain"})
        self._hit(who, "draining")
        assert len(stream.rest()) == 150

    # --- tools -----------------------------------------------------------------------------------

    def _who(self, rank: int | None = None) -> dict[str, Any]:
        return self.cluster.ranks(self.name)[self.rank if rank is None else rank]

    def _successor(self) -> dict[str, Any]:
        """Ends the runner that sits there, and waits for the one that takes its seat."""
        before = self._who()
        os.kill(before["pid"], signal.SIGKILL)

        def another() -> dict[str, Any] | None:
            now = self.cluster.ranks(self.name).get(self.rank)
            return now if now and now["pid"] and now["id"] != before["id"] else None

        found: dict[str, Any] = _soon(another, "a successor")
        return found

    def _hit(self, who: dict[str, Any], state: str) -> None:
        self._until(who["id"], state)
        os.kill(who["pid"], signal.SIGKILL)
        if (died := self._states(who["id"])[-1:]) != [state]:
            raise Missed(f"it was {died}")

    def _until(self, runner: str, state: str) -> None:
        _soon(lambda: state in self._states(runner), f"{runner} to be {state}")

    def _states(self, runner: str) -> list[str]:
        lines = read_lines(self.cluster.home.log_file("runner", runner))
        return [line["state"] for line in lines if line["event"] == "state"]

    @contextmanager
    def _stopped(self, pid: int):
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


_RECIPES: dict[str, Callable[[Hunter], None]] = {
    "loading": Hunter.loading,
    "loaded": Hunter.loaded,
    "connecting": Hunter.connecting,
    "warming": Hunter.warming,
    "ready": Hunter.ready,
    "draining": Hunter.draining,
}

STATES = tuple(_RECIPES)


def _soon(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {WAIT_S:g} s for {what}"
        time.sleep(LOOK_S)
    return value
