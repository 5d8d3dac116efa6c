"""The thin parent: controller, gateway, agents and the like are its children.

It restarts what ends, tells where the cluster answers, and takes everything down with it. No
request, token or fact passes through it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from paceline.cluster.node.agent import LEAVE_S
from paceline.cluster.parent.port import Served, is_healthy, url_of
from paceline.cluster.parent.sibling import Sibling
from paceline.cluster.parent.status import Command, UpStatus
from paceline.process.bounded import prune
from paceline.process.child import install_stop_signals, watch_parent
from paceline.process.home import Home, RunInfo
from paceline.process.logs import get_logger
from paceline.process.runtime import remove_sockets, sweep_sockets

TICK_S = 0.05
PROBE_EVERY_S = 0.2
PROBE_TIMEOUT_S = 0.25
SWEEP_EVERY_S = 10.0
LOGS_KEPT = 500

STOP_ORDER = (("gateway", 0.8), ("controller", 0.6), ("node", 2.8), ("ray", 0.6))
"""Who is ended first, and seconds until SIGKILL: 4.8 s in all, of the 5 s that are promised."""
STOP_WITHIN_S = 5.0
LEAVE_SIGNAL = signal.SIGUSR1
LEAVE_WITHIN_S = LEAVE_S + 5.0
"""What its node has to end in when this machine is asked to leave."""

log = get_logger(__name__)

OnStatus = Callable[[UpStatus], None]


def run_parent(
    home: Home,
    cluster_id: str,
    commands: Sequence[Command],
    served: Served,
    on_status: OnStatus,
) -> int:
    """Keeps the commands alive until SIGTERM, SIGINT or SIGHUP, or until our own parent is gone;
    then ends all of them within STOP_WITHIN_S. Returns the exit code.

    Call it from the main thread, under the home's lock and with logging configured. `served` is
    where the gateway among them answers; `on_status` is called on every change.
    """
    place = RunInfo(
        url=url_of(served.host, served.port),
        pid=os.getpid(),
        cluster_id=cluster_id,
        started_at=time.time(),
        api_key=served.api_key,
    )
    siblings = [Sibling(command, home.logs) for command in commands]
    probe = partial(is_healthy, served.host, served.port, PROBE_TIMEOUT_S)
    parent = Parent(home, home.runtime(), place, siblings, probe, on_status)
    watch_parent(lambda: parent.stop("its own parent is gone"), grace_s=STOP_WITHIN_S)
    with _asked_by_signals(parent):
        parent.run()
    return 0


class Parent:
    """The loop. Asked to stop once it ends its children in order, asked again it kills them."""

    def __init__(
        self,
        home: Home,
        runtime: Path,
        place: RunInfo,
        siblings: Sequence[Sibling],
        probe: Callable[[], bool],
        on_status: OnStatus,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`place` is what `run.json` will say once `probe` finds the gateway answering."""
        self._home = home
        self._runtime = runtime
        self._place = place
        self._siblings = siblings
        self._probe = probe
        self._on_status = on_status
        self._clock = clock
        self._asked: list[str] = []
        self._leaving = ""
        self._ready = False
        self._last_status: UpStatus | None = None
        self._probe_at = self._sweep_at = 0.0

    def stop(self, reason: str) -> None:
        """May be called from a signal handler and from any thread."""
        self._asked.append(reason)

    def leave(self, reason: str) -> None:
        """To end once its nodes have given their seats to others. As safe to call as `stop`."""
        self._leaving = reason

    def run(self) -> None:
        # What a predecessor left that had no time to clear away.
        self._clear_away()
        try:
            while not self._asked:
                self._tick()
                time.sleep(TICK_S)
        finally:
            self._end_all(self._asked[0] if self._asked else "its parent failed")
            self._clear_away()
            with suppress(OSError):
                self._runtime.rmdir()

    def _tick(self) -> None:
        for sibling in self._siblings:
            sibling.tick()
        if self._leaving:
            self._empty(self._leaving)
        now = self._clock()
        if not self._ready and now >= self._probe_at:
            self._ready = self._announce()
            self._probe_at = self._clock() + PROBE_EVERY_S
        if now >= self._sweep_at:
            sweep_sockets(self._runtime)
            prune(self._home.logs, "*", LOGS_KEPT)
            self._sweep_at = now + SWEEP_EVERY_S
        self._tell(stopping=False)

    def _announce(self) -> bool:
        if not self._probe():
            return False
        try:
            self._home.write_run(self._place)
        except OSError as error:
            log.warning("run.json cannot be written; trying on", why=str(error))
            return False
        log.info("ready", url=self._place.url)
        return True

    def _empty(self, reason: str) -> None:
        """SIGTERM has a node ask for its seats to be given away; then there is no more to do."""
        nodes = [sibling for sibling in self._siblings if sibling.role == "node"]
        for node in nodes:
            node.stop(LEAVE_WITHIN_S, reason, signal.SIGTERM)
        if all(node.ended for node in nodes):
            self.stop(reason)

    def _end_all(self, reason: str) -> None:
        log.info("stopping", why=reason)
        for role, grace_s in STOP_ORDER:
            members = [sibling for sibling in self._siblings if sibling.role == role]
            for sibling in members:
                sibling.stop(grace_s, f"the cluster stops: {reason}")
            while not all(sibling.ended for sibling in members):
                if len(self._asked) > 1:
                    for sibling in self._siblings:
                        sibling.kill("asked twice to stop")
                for sibling in members:
                    sibling.tick()
                self._tell(stopping=True)
                time.sleep(TICK_S / 5)
        self._tell(stopping=True)

    def _clear_away(self) -> None:
        with suppress(OSError):
            self._home.remove_run()
        remove_sockets(self._runtime)

    def _tell(self, *, stopping: bool) -> None:
        status = UpStatus(
            url=self._place.url,
            ready=self._ready and not stopping,
            stopping=stopping,
            siblings=tuple(sibling.status for sibling in self._siblings),
        )
        if status == self._last_status:
            return
        self._last_status = status
        try:
            self._on_status(status)
        except Exception:  # a closed terminal must not end the cluster
            log.exception("the status could not be shown")


@contextmanager
def _asked_by_signals(parent: Parent) -> Iterator[None]:
    """A terminal that closes asks us to end too, unless we were told to ignore that (nohup)."""
    asks = dict.fromkeys((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), parent.stop)
    asks[LEAVE_SIGNAL] = parent.leave
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        del asks[signal.SIGHUP]
    before = {number: signal.getsignal(number) for number in asks}
    install_stop_signals(lambda number: asks[number](f"it got {number.name}"), asks)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
