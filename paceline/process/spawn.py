"""The parent's side: a child process that ends with us, is heard, and is ended for certain."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from paceline.process.child import LIFE_VARIABLE, life_word
from paceline.process.exits import ChildExit, exit_sentence
from paceline.process.last_words import TAIL_LINES, LastWords
from paceline.process.memory import oom_kills

LAST_WORDS_S = 0.5
"""How long a dead process's pipe is read on."""


class Child:
    """One child process, in a session of its own: a Ctrl-C in our terminal is ours alone.

    Start it from the main thread when `kernel_kills` (the kernel ties it to the thread). Call
    `poll` often; it never waits for the child.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        name: str,
        output: Path | None = None,
        env: Mapping[str, str] | None = None,
        kernel_kills: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts it. `output`: a bounded file for what it says on stdout and stderr. `env` is
        added to ours. Raises OSError when it cannot be started."""
        self.name = name
        self._clock = clock
        self._asked = ""
        self._kill_at: float | None = None
        self._exit: ChildExit | None = None
        self._oom_kills = oom_kills()
        life, self._life = os.pipe()
        try:
            word = life_word(life, kernel_kills=kernel_kills)
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                env={**os.environ, **(env or {}), LIFE_VARIABLE: word},
                pass_fds=[life],
                start_new_session=True,
            )
        except OSError:
            os.close(self._life)
            raise
        finally:
            os.close(life)
        self.pid = self._process.pid
        self._started = clock()
        assert self._process.stdout is not None
        self._words = LastWords(self._process.stdout, output, name)

    def poll(self) -> ChildExit | None:
        """How it ended; None while it lives. Escalates a `terminate` whose grace is over."""
        if self._exit is None:
            if self._has_ended():
                self._exit = self._bury()
            elif self._kill_at is not None and self._clock() >= self._kill_at:
                self._signal_all(signal.SIGKILL)
        return self._exit

    def terminate(
        self, grace_s: float, reason: str, number: signal.Signals = signal.SIGTERM
    ) -> None:
        """Asks it to end with this signal, and kills it after `grace_s` (in `poll`). Again: the
        earlier of the two moments holds."""
        if self._exit is not None:
            return
        kill_at = self._clock() + grace_s
        if self._kill_at is None:
            self._asked = reason
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)

    def kill(self, reason: str) -> None:
        """Ends it, and all that it has started in its session, now."""
        if self._exit is None:
            self._asked = self._asked or reason
            self._kill_at = self._clock()
            self._signal_all(signal.SIGKILL)

    @property
    def ending(self) -> bool:
        """It was asked to end."""
        return self._kill_at is not None

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines that it said."""
        return self._words.tail

    def wait(self, timeout_s: float) -> ChildExit | None:
        """For callers without a loop: `poll` until it ended or the time is over."""
        deadline = time.monotonic() + timeout_s
        while (ended := self.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return ended

    def _has_ended(self) -> bool:
        # WNOWAIT leaves the zombie, so that its pid and group cannot be anyone else's yet.
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.pid, flags) is not None
        except ChildProcessError:
            return True

    def _bury(self) -> ChildExit:
        self._signal_all(signal.SIGKILL)
        self._words.wait(LAST_WORDS_S)
        code = self._process.wait()
        os.close(self._life)
        tail = self.tail
        now = oom_kills()
        unknown = now is None or self._oom_kills is None
        oom_killed = None if unknown else now != self._oom_kills
        sentence = exit_sentence(code, tail, asked=self._asked, oom_killed=oom_killed)
        lived_s = self._clock() - self._started
        return ChildExit(
            pid=self.pid,
            code=code,
            sentence=sentence,
            log_tail=tail[-TAIL_LINES:],
            lived_s=lived_s,
        )

    def _signal_all(self, number: signal.Signals) -> None:
        # It may not have reached setsid yet; then it has no group, and no children either.
        for send in (os.killpg, os.kill):
            with suppress(ProcessLookupError):
                send(self.pid, number)
