"""The compute thread: one job at a time, in order, results handed back to the I/O thread.

The I/O thread never waits for torch. It submits a job with a callback, polls `wakeup`, and runs
the callbacks of finished jobs itself by `collect()`; so everything but the jobs is single-threaded.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from paceline.process.child import name_thread

MAX_JOBS = 64


class WorkerBusy(Exception):
    """More jobs than a line can rightly have in flight were submitted."""


class _Job:
    def __init__(
        self, work: Callable[[], Any], then: Callable[[Any, BaseException | None], None]
    ) -> None:
        self.work = work
        self.then = then


class Worker:
    """One daemon thread. `submit` and `collect` are for the I/O thread alone."""

    def __init__(self, name: str = "compute", clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._submitted = self._finished = 0
        self._queued_at = 0.0
        self.wakeup, self._waker = socket.socketpair()
        self.wakeup.setblocking(False)
        self._waker.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(
        self, work: Callable[[], Any], then: Callable[[Any, BaseException | None], None]
    ) -> None:
        """Run `work()` on the compute thread; later call `then(result, error)` on this one.

        Raises WorkerBusy when MAX_JOBS wait already.
        """
        waiting = self._submitted - self._finished
        if waiting == 0:
            self._queued_at = self._clock()
        if waiting >= MAX_JOBS:
            raise WorkerBusy(f"{MAX_JOBS} jobs wait for the compute thread")
        self._jobs.put(_Job(work, then))
        self._submitted += 1

    @property
    def queued_since(self) -> float | None:
        """Since when there has been something to do; None when all is done."""
        return None if self._submitted == self._finished else self._queued_at

    def post(self, callback: Callable[[], None]) -> None:
        """From a job on the compute thread: have `callback()` run on the I/O thread."""
        self._done.put(callback)
        self._wake()

    def collect(self) -> None:
        """Run what finished. Never blocks."""
        with contextlib.suppress(BlockingIOError):
            while self.wakeup.recv(4096):
                pass
        with contextlib.suppress(queue.Empty):
            while True:
                self._done.get_nowait()()

    def close(self, timeout_s: float) -> bool:
        """Ask the thread to end after the jobs before; False if it is still at one then."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        name_thread(self._thread.name)
        while (job := self._jobs.get()) is not None:
            result, error = None, None
            try:
                result = job.work()
            except BaseException as caught:  # a task's failure must not end the process
                error = caught
            self._finished += 1
            self._done.put(_bound(job.then, result, error))
            del job, result, error
            self._wake()

    def _wake(self) -> None:
        # A full buffer means that a wake-up is pending already.
        with contextlib.suppress(BlockingIOError):
            self._waker.send(b"\0")


def _bound(
    then: Callable[[Any, BaseException | None], None], result: Any, error: BaseException | None
) -> Callable[[], None]:
    return lambda: then(result, error)
