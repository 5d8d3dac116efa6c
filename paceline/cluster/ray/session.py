"""Everything that is said to Ray, on one thread: its calls wait for the head, and an agent that
waits with them could not look after its runners."""

from __future__ import annotations

import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from paceline.cluster.ray.actor import RunnerActor
from paceline.cluster.ray.lease import peer_pid
from paceline.process.logs import get_logger

CONNECT_S = 60.0
"""How long Ray on this machine may take to be there."""
RETRY_S = 0.5
MAX_WAITING = 1024
"""Calls to Ray that may wait, for it to be there or for its head to answer."""

log = get_logger(__name__)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Which Ray, and as which of its nodes."""

    address: str
    host: str
    namespace: str


class Session:
    """One connection to Ray, as a driver: what it makes, Ray ends with it."""

    def __init__(self, target: Target) -> None:
        """Connects in the background."""
        self.ready = False
        self.lost = ""
        """Why there is no Ray here (any more); empty while there is or may be."""
        self._target = target
        self._calls: queue.Queue[Callable[[], None]] = queue.Queue(MAX_WAITING)
        threading.Thread(target=self._run, name="ray", daemon=True).start()

    def make(
        self, name: str, arguments: tuple[Any, ...], on_failed: Callable[[str], None]
    ) -> Callable[[], None]:
        """Has an actor on this node that runs with these arguments. Gives what ends it again.

        `on_failed` is called, on some other thread, with why it is not there or not any more.
        Neither waits; raises OSError when too much waits already.
        """
        made: list[Any] = []

        def start() -> None:
            try:
                made.append(_actor(name, self._node))
                future = made[0].run.remote(*arguments).future()
                future.add_done_callback(lambda done: on_failed(_reason(done.exception())))
            except Exception as error:
                on_failed(_reason(error))

        def end() -> None:
            for actor in made:
                with suppress(Exception):
                    _ray().kill(actor)

        self._call(start)

        def end_soon() -> None:
            # Where it cannot be said now, the actor is ended when it signs in.
            with suppress(BlockingIOError):
                self._call(end)

        return end_soon

    def _call(self, call: Callable[[], None]) -> None:
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            raise BlockingIOError(f"{MAX_WAITING} calls to Ray wait already") from None

    def _run(self) -> None:
        try:
            self._connect()
        except Exception as error:
            self.lost = f"Ray cannot be reached from this machine: {_reason(error)}"
            return
        self.ready = True
        while True:
            self._calls.get()()

    def _connect(self) -> None:
        deadline = time.monotonic() + CONNECT_S
        while True:
            try:
                _init(self._target)
                break
            except Exception as error:
                log.info("Ray is not there yet", why=_reason(error))
                _ray().shutdown()
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_S)
        self._node = str(_ray().get_runtime_context().get_node_id())
        raylet = _raylet_pid(self._node)
        threading.Thread(target=self._watch, args=(os.pidfd_open(raylet),), daemon=True).start()
        log.info("connected to Ray", ray_node=self._node, raylet=raylet)

    def _watch(self, raylet: int) -> None:
        """Without it nothing can be started, and what runs ends with it."""
        select.select([raylet], [], [])
        self.lost = "Ray on this machine has ended"


def _ray() -> Any:
    """Imported when it is first needed: it takes a second, and is an extra."""
    import ray

    return ray


def _init(target: Target) -> None:
    _ray().init(
        address=target.address,
        namespace=target.namespace,
        log_to_driver=False,
        configure_logging=False,
        _node_ip_address=target.host,
    )


def _actor(name: str, node: str) -> Any:
    """Owned by us and not detached: so Ray ends it as soon as we are gone, also when it is hung.
    Never restarted: the controller decides that."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return (
        _ray()
        .remote(RunnerActor)
        .options(
            name=name,
            num_cpus=0,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False),
        )
        .remote()
    )


def _raylet_pid(node: str) -> int:
    paths = [n["RayletSocketName"] for n in _ray().nodes() if n["NodeID"] == node]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.connect(paths[0])
        return peer_pid(end)


def _reason(error: BaseException | None) -> str:
    """Its first line: Ray's errors go on for a page."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
