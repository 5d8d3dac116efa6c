"""The runners of one node: who lives, how the others ended, and what memory is spoken for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from paceline.process.exits import ChildExit
from paceline.process.logs import get_logger
from paceline.types.control import Kill, Launch, Reserve
from paceline.types.facts import ProcessExit, ProcessFacts
from paceline.types.ids import RunnerId

LAST_EXITS = 16
TAIL_IN_FACTS = 20
NAMES_KEPT = 10_000
NEVER_STARTED = 69
"""Exit code of a runner that was refused: EX_UNAVAILABLE of sysexits(3)."""

log = get_logger(__name__)


class RunnerProcess(Protocol):
    """A runner's process, however it came to be; a `Child` is one."""

    @property
    def pid(self) -> int:
        """0 until it is known."""
        ...

    def poll(self) -> ChildExit | None:
        """How it ended; None while it lives. Never waits."""
        ...

    def terminate(self, grace_s: float, reason: str) -> None:
        """Asks it to end, and sees to it that it has after `grace_s`, as long as `poll` is called.
        Again: the earlier of the two moments holds."""
        ...


class Roster:
    """Obeys orders and keeps the ledger. A runner counts until it is seen gone."""

    def __init__(
        self, incarnation: str, memory_bytes: int, start: Callable[[RunnerId], RunnerProcess]
    ) -> None:
        """`start` makes the process; it may raise OSError."""
        self._incarnation = incarnation
        self._memory_bytes = memory_bytes
        self._start = start
        self._alive: dict[RunnerId, tuple[RunnerProcess, int]] = {}
        # As a dict for its order: the oldest names are forgotten first.
        self._used: dict[RunnerId, None] = {}
        self._exits: deque[ProcessExit] = deque(maxlen=LAST_EXITS)
        self.term = 0
        """The newest whose orders were heeded."""
        self._closing = ""
        self._changed = False

    @property
    def processes(self) -> tuple[ProcessFacts, ...]:
        return tuple(
            ProcessFacts(runner_id=name, pid=process.pid, memory_bytes=memory)
            for name, (process, memory) in self._alive.items()
        )

    @property
    def exits(self) -> tuple[ProcessExit, ...]:
        return tuple(self._exits)

    @property
    def reserved_bytes(self) -> int:
        return sum(memory for _, memory in self._alive.values())

    def launch(self, order: Launch) -> None:
        """Starts the runner, or shows it as ended with the reason why it was not started."""
        name = order.runner_id
        if order.incarnation != self._incarnation or self._is_stale(order):
            return
        if name in self._used:
            return
        self._use(name)
        reason = self._refusal(order.memory_bytes)
        if not reason:
            try:
                self._alive[name] = (self._start(name), order.memory_bytes)
            except OSError as error:
                reason = f"not started: {error}"
        self._changed = True
        if reason:
            self._bury(name, ChildExit.of_none(NEVER_STARTED, reason))
        else:
            log.info("runner started", runner=name, pid=self._alive[name][0].pid)

    def reserve(self, order: Reserve) -> None:
        """Counts more for a runner, as far as the node has it; the next beat shows the result."""
        name = order.runner_id
        if order.incarnation != self._incarnation or self._is_stale(order):
            return
        if name not in self._alive:
            return
        process, counted = self._alive[name]
        more = order.memory_bytes - counted
        if 0 < more <= self._memory_bytes - self.reserved_bytes:
            self._alive[name] = (process, order.memory_bytes)
            log.info("memory reserved", runner=name, memory_bytes=order.memory_bytes)
        self._changed = True

    def kill(self, order: Kill) -> None:
        """Ends the runner; one that was never here is never started here either. Whichever it
        was, it is then shown as ended."""
        name = order.runner_id
        if self._is_stale(order):
            return
        self._use(name)
        if name in self._alive:
            self._alive[name][0].terminate(order.grace_s, order.reason)
        elif all(ended.runner_id != name for ended in self._exits):
            self._bury(name, ChildExit.of_none(NEVER_STARTED, f"is not here: {order.reason}"))

    def close(self, grace_s: float, reason: str) -> None:
        """Ends all and starts no more."""
        self._closing = reason
        for process, _ in self._alive.values():
            process.terminate(grace_s, reason)

    def tick(self) -> bool:
        """Looks after every process. True if anything changed since the last tick."""
        for name, (process, _) in list(self._alive.items()):
            ended = process.poll()
            if ended is not None:
                del self._alive[name]
                self._bury(name, ended)
        changed, self._changed = self._changed, False
        return changed

    def _refusal(self, memory_bytes: int) -> str:
        if self._closing:
            return f"not started: the node is going away ({self._closing})"
        free = self._memory_bytes - self.reserved_bytes
        if memory_bytes > free:
            return (
                f"not started: it needs {_mib(memory_bytes)}, and of the node's "
                f"{_mib(self._memory_bytes)} only {_mib(free)} are free"
            )
        return ""

    def _is_stale(self, order: Launch | Reserve | Kill) -> bool:
        """Of an older controller than one that was heeded."""
        if order.term < self.term:
            log.warning(
                "order of an older controller refused", runner=order.runner_id, term=order.term
            )
            return True
        self.term = order.term
        return False

    def _use(self, name: RunnerId) -> None:
        self._used[name] = None
        if len(self._used) > NAMES_KEPT:
            oldest = next(used for used in self._used if used not in self._alive)
            del self._used[oldest]

    def _bury(self, name: RunnerId, ended: ChildExit) -> None:
        self._changed = True
        self._exits.append(
            ProcessExit(
                runner_id=name,
                pid=ended.pid,
                code=ended.code,
                sentence=ended.sentence,
                log_tail=ended.log_tail[-TAIL_IN_FACTS:],
            )
        )
        log.info("runner ended", runner=name, pid=ended.pid, code=ended.code, why=ended.sentence)


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
