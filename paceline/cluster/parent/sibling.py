"""A child that the parent starts again whenever it ends, with backoff."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from paceline.cluster.parent.status import Command, SiblingStatus
from paceline.process.backoff import Backoff
from paceline.process.exits import ChildExit
from paceline.process.logs import get_logger
from paceline.process.spawn import Child

NEVER_STARTED = 127
"""Exit code of what could not be started, as shells have it."""

_ENDS = {"node": signal.SIGINT}
"""What ends a sibling at once. SIGTERM has a node give its seats to others first."""

log = get_logger(__name__)


class Sibling:
    """One of `controller`, `gateway`, `node`, `ray`. `tick` often; nothing here waits."""

    def __init__(
        self, command: Command, logs: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.role = command.role
        self.name = command.name
        self._command = command
        self._output = logs / f"{command.role}-{command.name}.out"
        self._clock = clock
        self._child: Child | None = None
        self._backoff = Backoff()
        self._start_at: float | None = clock()
        self._restarts = 0
        self._last_end = ""

    @property
    def status(self) -> SiblingStatus:
        return SiblingStatus(
            role=self.role,
            name=self.name,
            pid=self._child.pid if self._child else None,
            restarts=self._restarts,
            last_end=self._last_end,
        )

    @property
    def ended(self) -> bool:
        """It is not there, and will not come back."""
        return self._child is None and self._start_at is None

    def tick(self) -> None:
        """Notices its end, and starts it when it is time."""
        if self._child is not None:
            ended = self._child.poll()
            if ended is not None:
                self._child = None
                self._note(ended)
        elif self._start_at is not None and self._clock() >= self._start_at:
            self._start()

    def stop(self, grace_s: float, reason: str, number: signal.Signals | None = None) -> None:
        """Ends it for good: a signal now, SIGKILL after the grace."""
        self._start_at = None
        if self._child is not None:
            number = number or _ENDS.get(self.role, signal.SIGTERM)
            self._child.terminate(grace_s, reason, number)

    def kill(self, reason: str) -> None:
        self._start_at = None
        if self._child is not None:
            self._child.kill(reason)

    def _start(self) -> None:
        try:
            self._child = Child(
                self._command.argv,
                name=self.name,
                output=self._output,
                env=self._command.env,
                kernel_kills=self._command.kernel_kills,
                clock=self._clock,
            )
        except OSError as error:
            self._note(ChildExit.of_none(NEVER_STARTED, f"could not be started: {error}"))
            return
        log.info("started", sibling=self.role, which=self.name, child_pid=self._child.pid)

    def _note(self, ended: ChildExit) -> None:
        self._last_end = ended.sentence
        if self._start_at is None:
            log.info("ended", sibling=self.role, which=self.name, why=ended.sentence)
            return
        self._backoff, delay_s = self._backoff.after(ended.lived_s)
        self._start_at = self._clock() + delay_s
        self._restarts += 1
        log.warning(
            "ended and will be started again",
            sibling=self.role,
            which=self.name,
            why=ended.sentence,
            in_s=delay_s,
        )
