"""The controller's process: one socket, one loop, one clock."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from paceline.cluster.agents import AgentCluster
from paceline.controller.controller import Controller, open_book
from paceline.controller.events import EventLog
from paceline.controller.models import Models
from paceline.controller.store import Store
from paceline.process.child import install_stop_signals, watch_parent
from paceline.process.descriptors import allow_descriptors
from paceline.process.exposure import API_KEY_VARIABLE
from paceline.process.home import Home
from paceline.process.logs import configure, get_logger
from paceline.process.runtime import control_address
from paceline.process.versions import versions
from paceline.transport.control import ControlServer
from paceline.transport.membership import Membership
from paceline.types.errors import PacelineError
from paceline.types.join import House
from paceline.types.policy import DEFAULT_TIERS, Tier, read_tiers
from paceline.types.timing import DEFAULT_TIMING, Timing, read_timing

log = get_logger("controller")


class Stopped:
    """Set once, by a signal or by the parent's end."""

    def __init__(self) -> None:
        self.why = ""


def run(
    home: Home,
    runtime: Path,
    cluster_id: str,
    timing: Timing,
    tiers: Sequence[Tier],
    stopped: Stopped,
    listen: str | None = None,
    house: House | None = None,
) -> None:
    """Until stopped. Raises PacelineError when it cannot start."""
    membership = Membership.of(home)
    store = Store(home.store)
    events = EventLog(home.logs)
    models = Models(home.path, time.monotonic)
    book = open_book(store, cluster_id)
    with ControlServer(control_address(runtime), membership, listen=listen) as server:
        log.info("control listens", address=server.address, network=server.listen)
        install_stop_signals(lambda number: _stop(stopped, server, f"it got {number.name}"))
        controller = Controller(
            book,
            store,
            models,
            events,
            AgentCluster(server.send),
            server.send,
            time.monotonic,
            timing,
            tiers,
            house,
        )
        sentence = f"term {book.term} begins with {len(book.instances)} wanted instances"
        events.add("term", sentence)
        try:
            _loop(controller, server, timing, stopped)
        finally:
            models.close()
            events.close()
            store.close()


def _loop(controller: Controller, server: ControlServer, timing: Timing, stopped: Stopped) -> None:
    next_wake = time.monotonic()
    while not stopped.why:
        wait_s = min(max(0.0, next_wake - time.monotonic()), timing.longest_wait_s)
        messages = server.receive(wait_s)
        controller.wake()
        for peer, message in messages:
            controller.take(peer, message)
        next_wake = controller.step()
        stopped.why = stopped.why or controller.deposed
    log.info("stopping", why=stopped.why)


def _stop(stopped: Stopped, server: ControlServer, why: str) -> None:
    stopped.why = why
    server.wake()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m paceline.controller", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--runtime", type=Path, required=True)
    parser.add_argument("--cluster-id", required=True)
    parser.add_argument("--listen", metavar="tcp://HOST:PORT", help="also for other machines")
    parser.add_argument("--ray-address", metavar="HOST:PORT", help="told to nodes that join")
    parser.add_argument("--tiers", type=read_tiers, default=DEFAULT_TIERS, help="JSON")
    parser.add_argument("--timing", type=read_timing, default=DEFAULT_TIMING, help="JSON")
    options = parser.parse_args()
    home = Home(options.home)
    configure("controller", "controller", home.log_file("controller", "controller"))
    allow_descriptors()
    stopped = Stopped()
    watch_parent(lambda: setattr(stopped, "why", "its parent is gone"))
    try:
        home.create()
        run(
            home,
            options.runtime,
            options.cluster_id,
            options.timing,
            options.tiers,
            stopped,
            options.listen,
            House(
                versions=versions(),
                ray_address=options.ray_address,
                api_key=os.environ.get(API_KEY_VARIABLE) or None,
            ),
        )
    except PacelineError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
