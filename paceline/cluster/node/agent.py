"""A node's agent: it looks after the runners of one node, whatever a cluster is made of.

It decides nothing. It beats the whole truth about its runners and obeys the controller; when the
controller is away the runners live on. When the agent goes, they go.

SIGTERM asks it to leave: it says so, and stays until the controller has given its seats to other
nodes and ended its runners, or until LEAVE_S have passed. SIGINT, a second SIGTERM and the end of
its parent end it now.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Protocol

import zmq

from paceline.checkpoint.shelf import Shelf
from paceline.checkpoint.store import Store
from paceline.cluster.agents import agent_identity
from paceline.cluster.node.roster import Roster, RunnerProcess
from paceline.cluster.node.settings import NodeSettings
from paceline.process.bounded import prune
from paceline.process.child import install_stop_signals, watch_parent
from paceline.process.home import Home
from paceline.process.logs import configure, get_logger
from paceline.process.runtime import control_address
from paceline.transport.authenticator import Authenticator
from paceline.transport.control import ControlClient
from paceline.transport.depot import Depot
from paceline.transport.keys import KeyPair
from paceline.transport.membership import Membership
from paceline.transport.probe import Echo, Sounder
from paceline.types.control import Kill, Launch, NodeBeat, Peers, Reserve, ToAgent
from paceline.types.facts import NodeFacts
from paceline.types.ids import RunnerId

TICK_S = 0.05
STOP_GRACE_S = 1.5
"""What runners have to end in, once the agent was told to end."""
STOP_WITHIN_S = 2.5
LEAVE_S = 20.0
"""How long a node that was asked to leave waits to be empty."""
RUNNER_LOGS_KEPT = 200

log = get_logger("paceline.cluster.node")


class Launcher(Protocol):
    """How a runner comes to life on this node."""

    def start(self, runner_id: RunnerId) -> RunnerProcess:
        """Never waits. Raises OSError when it cannot be started."""
        ...

    @property
    def ready(self) -> bool:
        """Whether anything can be started; the node does not show itself before."""
        ...

    @property
    def lost(self) -> str:
        """Why nothing can be started here any more, so that the node has to end; else empty."""
        ...


class Agent:
    """One node. `run` returns when the node was stopped and its runners are gone."""

    def __init__(
        self,
        settings: NodeSettings,
        control: ControlClient[ToAgent],
        launcher: Launcher,
        member: KeyPair,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._control = control
        self._clock = clock
        self._launcher = launcher
        self._logs = Home(settings.home).logs
        self._roster = Roster(settings.incarnation, settings.memory_bytes, self._start)
        self._orders: dict[type, Callable[..., None]] = {
            Launch: self._roster.launch,
            Reserve: self._roster.reserve,
            Kill: self._roster.kill,
            Peers: self._meet,
        }
        keys = KeyPair.fresh()
        directory = None if settings.host else settings.runtime
        self._echo = Echo.open(keys, directory=directory, host=settings.host)
        self._sounder = Sounder(settings.node, keys)
        shelf = Shelf(Store(settings.store))
        self._depot = Depot.open(
            keys, [member.public], shelf, directory=directory, host=settings.host
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

    def run(self, mind_signals: Callable[[], None]) -> None:
        """`mind_signals` is called once anything can be started: what the launcher brought along
        may have taken our signals over."""
        next_beat = 0.0
        ready = False
        changed = True
        leave_at: float | None = None
        while leave_at is None or (self._roster.processes and self._clock() < leave_at):
            self._wait()
            self._obey()
            self._echo.answer()
            self._sounder.tick(self._clock())
            self._leave_if_empty()
            self._stopping = self._stopping or self._launcher.lost
            if self._stopping and leave_at is None:
                self._roster.close(STOP_GRACE_S, self._stopping)
                leave_at = self._clock() + STOP_WITHIN_S
            changed = self._roster.tick() or changed
            if not ready and self._launcher.ready:
                ready = True
                mind_signals()
            if ready and (changed or self._clock() >= next_beat):
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
            strangers=Authenticator.strangers_here(),
        )

    def _start(self, runner_id: RunnerId) -> RunnerProcess:
        prune(self._logs, "runner-*", RUNNER_LOGS_KEPT)
        return self._launcher.start(runner_id)


_ASKS = {signal.SIGTERM: Agent.leave, signal.SIGINT: Agent.stop}


def run_agent(settings: NodeSettings, launcher: Launcher) -> str:
    """Runs the node in this process until it is to end; gives why it could not go on, if so.

    Call it from the main thread, with logging configured."""
    name = agent_identity(settings.node, settings.incarnation)
    address = settings.control or control_address(settings.runtime)
    membership = Membership.of(Home(settings.home))
    with ControlClient[ToAgent](address, name, ToAgent, membership) as control:
        agent = Agent(settings, control, launcher, membership.member)
        watch_parent(lambda: agent.stop("the parent is gone"), grace_s=STOP_WITHIN_S)

        def mind_signals() -> None:
            install_stop_signals(lambda number: _ASKS[number](agent, f"the node got {number.name}"))

        mind_signals()
        log.info("node started", memory_bytes=settings.memory_bytes, threads=settings.threads)
        agent.run(mind_signals)
        log.info("node stopped")
    return launcher.lost


def configure_logs(settings: NodeSettings) -> None:
    log_file = Home(settings.home).log_file("node", settings.node)
    configure("node", settings.node, log_file, node=settings.node, incarnation=settings.incarnation)
