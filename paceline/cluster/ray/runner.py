"""A runner that Ray started for us, as the roster knows it."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from paceline.cluster.node.roster import NEVER_STARTED
from paceline.cluster.ray.lease import SignedIn
from paceline.process.exits import ChildExit, exit_sentence
from paceline.process.last_words import TAIL_LINES, LastWords
from paceline.process.memory import oom_kills
from paceline.process.spawn import LAST_WORDS_S

SETTLE_S = 1.0
"""How long one that Ray says has ended may still be found at the door, with its last words."""
FATAL = "Fatal Python error: "
_FATAL_SIGNALS = {
    "Segmentation fault": signal.SIGSEGV,
    "Aborted": signal.SIGABRT,
    "Bus error": signal.SIGBUS,
    "Illegal instruction": signal.SIGILL,
    "Floating-point exception": signal.SIGFPE,
    "Floating point exception": signal.SIGFPE,
}
"""What faulthandler says, for each signal that it hears of."""


class ActorRunner:
    """First asked of Ray, then signed in, in the end gone. Not our child: the kernel tells us by a
    pidfd that it ended, and the lease tells with which code."""

    def __init__(
        self,
        name: str,
        output: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.give_up: Callable[[], None] = lambda: None
        """Has Ray end an actor that has not signed in; never waits."""
        self.name = name
        self._output = output
        self._clock = clock
        self._asked_at = clock()
        self._guard = threading.Lock()
        self._in: SignedIn | None = None
        self._pidfd: int | None = None
        self._words: LastWords | None = None
        self._oom_kills = oom_kills()
        self._failed = ""
        self._failed_at = 0.0
        self._asked = ""
        self._kill_at: float | None = None
        self._exit: ChildExit | None = None

    @property
    def pid(self) -> int:
        return self._in.pid if self._in else 0

    def signed_in(self, runner: SignedIn) -> None:
        """Its process is there. May be called from any thread."""
        with self._guard:
            if self._exit is not None:
                runner.turn_away()
                return
            self._pidfd = runner.open_pidfd()
            pipe = os.fdopen(runner.output, "rb", buffering=0)
            self._words = LastWords(pipe, self._output, self.name)
            self._in = runner
            if self._kill_at is not None:
                self._signal(signal.SIGTERM)

    def failed(self, reason: str) -> None:
        """Ray did not bring it to life, or has ended it. May be called from any thread."""
        with self._guard:
            self._failed, self._failed_at = reason, self._clock()

    def poll(self) -> ChildExit | None:
        with self._guard:
            if self._exit is None:
                self._exit = self._look()
            return self._exit

    def terminate(self, grace_s: float, reason: str) -> None:
        with self._guard:
            if self._exit is not None:
                return
            kill_at = self._clock() + grace_s
            if self._kill_at is None:
                self._asked, self._kill_at = reason, kill_at
                if self._in is None:
                    self.give_up()
                else:
                    self._signal(signal.SIGTERM)
            self._kill_at = min(self._kill_at, kill_at)

    def _look(self) -> ChildExit | None:
        is_over = self._kill_at is not None and self._clock() >= self._kill_at
        if self._in is None:
            return self._look_for_it(is_over=is_over)
        if self._pidfd is None or select.select([self._pidfd], [], [], 0)[0]:
            return self._bury(self._in)
        if is_over:
            self._signal(signal.SIGKILL)
        return None

    def _look_for_it(self, *, is_over: bool) -> ChildExit | None:
        has_failed = self._failed and self._clock() - self._failed_at >= SETTLE_S
        reason = self._failed if has_failed else "it did not come to life in time"
        if not has_failed and not is_over:
            return None
        why = f"{reason} (asked to end: {self._asked})" if self._asked else reason
        return ChildExit.of_none(NEVER_STARTED, why)

    def _bury(self, runner: SignedIn) -> ChildExit:
        assert self._words is not None
        self._words.wait(LAST_WORDS_S)
        tail = self._words.tail
        code = runner.last_code()
        if code is None:
            code = -_signal_of(tail)
        if self._pidfd is not None:
            os.close(self._pidfd)
        runner.close()
        now = oom_kills()
        unknown = now is None or self._oom_kills is None
        oom_killed = None if unknown else now != self._oom_kills
        return ChildExit(
            pid=runner.pid,
            code=code,
            sentence=exit_sentence(code, tail, asked=self._asked, oom_killed=oom_killed),
            log_tail=tail[-TAIL_LINES:],
            lived_s=self._clock() - self._asked_at,
        )

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)


def _signal_of(tail: Sequence[str]) -> signal.Signals:
    """What ended a process that did not come to say its code. Only SIGKILL leaves no word."""
    said = (line.removeprefix(FATAL) for line in reversed(tail) if line.startswith(FATAL))
    return _FATAL_SIGNALS.get(next(said, ""), signal.SIGKILL)
