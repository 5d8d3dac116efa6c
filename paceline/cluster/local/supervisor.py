"""`python -m paceline.cluster.local.supervisor`: a virtual node, the parent of its runners.

It decides nothing. It beats the whole truth about its runners and obeys the controller; when the
controller is away the runners live on. When the supervisor goes, they go.

SIGTERM asks it to leave: it says so, and stays until the controller has given its seats to other
nodes and ended its runners, or until LEAVE_S have passed. SIGINT, a second SIGTERM and the end of
its parent end it now.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from paceline.checkpoint.shelf import Shelf
from paceline.checkpoint.store import Store
from paceline.cluster.local.cluster import supervisor_identity
from paceline.cluster.local.roster import Roster
from paceline.process.bounded import prune
from paceline.process.child import install_stop_signals, watch_parent
from paceline.process.home import Home
from paceline.process.logs import configure, get_logger
from paceline.process.runtime import control_address
from paceline.process.spawn import Child
from paceline.transport.control import ControlClient
from paceline.transport.depot import Depot
from paceline.transport.keys import KeyPair
from paceline.transport.membership import Membership
from paceline.transport.probe import Echo, Sounder
from paceline.types.control import Kill, Launch, NodeBeat, Peers, Reserve, ToSupervisor
from paceline.types.facts import NodeFacts
from paceline.types.ids import NodeName, RunnerId
from paceline.types.timing import DEFAULT_TIMING, Timing, read_timing

TICK_S = 0.05
STOP_GRACE_S = 1.5
"""What runners have to end in, once the supervisor was told to end."""
STOP_WITHIN_S = 2.5
LEAVE_S = 20.0
"""How long a node that was asked to leave waits to be empty."""
RUNNER_LOGS_KEPT = 200

log = get_logger("paceline.cluster.local.supervisor")


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who a supervisor is and how it starts runners."""

    home: Path
    runtime: Path
    cluster_id: str
    node: NodeName
    incarnation: str
    memory_bytes: int
    threads: int
    blanks: int
    timing: Timing
    store: Path
    """The home of its checkpoints."""
    runner: tuple[str, ...]
    """The program of a runner; its options are appended."""


class Supervisor:
    """One node. `run` returns when the node was stopped and its runners are gone."""

    def __init__(
        self,
        settings: NodeSettings,
        control: ControlClient[ToSupervisor],
        member: KeyPair,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._control = control
        self._clock = clock
        self._home = Home(settings.home)
        self._roster = Roster(settings.incarnation, settings.memory_bytes, self._start)
        self._orders: dict[type, Callable[..., None]] = {
            Launch: self._roster.launch,
            Reserve: self._roster.reserve,
            Kill: self._roster.kill,
            Peers: self._meet,
        }
        keys = KeyPair.fresh()
        self._echo = Echo.open(keys, directory=settings.runtime)
        self._sounder = Sounder(settings.node, keys)
        self._depot = Depot.open(
            keys, [member.public], Shelf(Store(settings.store)), directory=settings.runtime
        )
        self._started_at = time.time()
        self._stopping = ""
        self._leave_until: float | None = None
        self._beats = 0

    def stop(self, reason: str) -> None:
        """Asks the node to end; may be called from a signal handler and from any thread."""
        self._stopping = reason

    def leave(self, reason: str) -> None:
        """Asks the node to end once it is empty; asked again, it ends. Safe in a handler."""
        if self._leave_until is not None:
            self.stop(reason)
        else:
            self._leave_until = self._clock() + LEAVE_S

    def run(self) -> None:
        next_beat = 0.0
        changed = True
        leave_at: float | None = None
        while leave_at is None or (self._roster.processes and self._clock() < leave_at):
            self._wait()
            self._obey()
            self._echo.answer()
            self._sounder.tick(self._clock())
            self._leave_if_empty()
            if self._stopping and leave_at is None:
                self._roster.close(STOP_GRACE_S, self._stopping)
                leave_at = self._clock() + STOP_WITHIN_S
            changed = self._roster.tick() or changed
            if changed or self._clock() >= next_beat:
                self._beats += 1
                beat = NodeBeat(self._facts(), number=self._beats)
                changed = not self._control.send(beat) and changed
                next_beat = self._clock() + self._settings.timing.beat_s
        self._echo.close()
        self._sounder.close()
        self._depot.close()

    def _leave_if_empty(self) -> None:
        if self._leave_until is None or self._stopping:
            return
        if not self._roster.processes:
            self.stop("the node was asked to leave, and is empty")
        elif self._clock() >= self._leave_until:
            self.stop(f"the node was asked to leave, and is not empty after {LEAVE_S:.0f} s")

    def _wait(self) -> None:
        poller = zmq.Poller()
        for end in (self._control.socket, self._echo.socket, *self._sounder.sockets):
            poller.register(end, zmq.POLLIN)
        poller.poll(round(TICK_S * 1000))

    def _meet(self, order: Peers) -> None:
        is_ours = order.incarnation == self._settings.incarnation
        if is_ours and order.term >= self._roster.term:
            self._echo.admit(order.admit)
            self._sounder.meet(order.measure)

    def _obey(self) -> None:
        for order in self._control.receive():
            handle = self._orders.get(type(order))
            if handle is None:
                log.warning("order not understood", order=repr(order)[:200])
            else:
                handle(order)

    def _facts(self) -> NodeFacts:
        settings = self._settings
        return NodeFacts(
            name=settings.node,
            incarnation=settings.incarnation,
            cluster_id=settings.cluster_id,
            pid=os.getpid(),
            host=socket.gethostname(),
            cpus=settings.threads,
            memory_bytes=settings.memory_bytes,
            started_at=self._started_at,
            blanks=settings.blanks,
            probe=self._echo.offer,
            links=self._sounder.links,
            processes=self._roster.processes,
            exits=self._roster.exits,
            term=self._roster.term,
            leaving=self._leave_until is not None,
            depot=self._depot.offer,
            checkpoints=self._depot.checkpoints,
            given_bytes=self._depot.given_bytes,
        )

    def _start(self, runner_id: RunnerId) -> Child:
        settings = self._settings
        prune(self._home.logs, "runner-*", RUNNER_LOGS_KEPT)
        options = {
            "--home": settings.home,
            "--store": settings.store,
            "--runtime": settings.runtime,
            "--cluster-id": settings.cluster_id,
            "--node": settings.node,
            "--incarnation": settings.incarnation,
            "--runner-id": runner_id,
            "--threads": settings.threads,
            "--beat": settings.timing.beat_s,
            "--grace": settings.timing.task_grace_s,
        }
        return Child(
            [*settings.runner, *(str(word) for pair in options.items() for word in pair)],
            name=runner_id,
            output=self._home.logs / f"runner-{runner_id}.out",
            env={"OMP_NUM_THREADS": str(settings.threads)},
        )


_ASKS = {signal.SIGTERM: Supervisor.leave, signal.SIGINT: Supervisor.stop}


def main() -> None:
    settings = _settings()
    name = supervisor_identity(settings.node, settings.incarnation)
    home = Home(settings.home)
    log_file = home.log_file("node", settings.node)
    configure("node", settings.node, log_file, node=settings.node, incarnation=settings.incarnation)
    address, membership = control_address(settings.runtime), Membership.of(home)
    with ControlClient[ToSupervisor](address, name, ToSupervisor, membership) as control:
        supervisor = Supervisor(settings, control, membership.member)
        watch_parent(lambda: supervisor.stop("the parent is gone"), grace_s=STOP_WITHIN_S)
        install_stop_signals(
            lambda number: _ASKS[number](supervisor, f"the node got {number.name}")
        )
        log.info("node started", memory_bytes=settings.memory_bytes, threads=settings.threads)
        supervisor.run()
        log.info("node stopped")


def _settings() -> NodeSettings:
    parser = argparse.ArgumentParser(
        prog="python -m paceline.cluster.local.supervisor", description="A virtual node."
    )
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--runtime", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="the home of its checkpoints, if not --home")
    parser.add_argument("--cluster-id", required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--memory", type=int, required=True, help="bytes offered to runners")
    parser.add_argument("--blanks", type=int, default=1, help="runners kept ready without a seat")
    parser.add_argument("--timing", type=read_timing, default=DEFAULT_TIMING, help="JSON")
    parser.add_argument("--threads", type=int, default=1, help="of each runner")
    parser.add_argument("--runner", default=f"{shlex.quote(sys.executable)} -m paceline.runner")
    given = parser.parse_args()
    return NodeSettings(
        home=given.home,
        runtime=given.runtime,
        cluster_id=given.cluster_id,
        node=given.node,
        incarnation=secrets.token_hex(4),
        memory_bytes=given.memory,
        threads=given.threads,
        blanks=given.blanks,
        timing=given.timing,
        store=given.store or given.home,
        runner=tuple(shlex.split(given.runner)),
    )


if __name__ == "__main__":
    main()
