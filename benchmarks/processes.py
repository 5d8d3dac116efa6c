"""The harness's side of the pipe: a system in a process group of its own, ended at a deadline."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from benchmarks.work import Outcome, Work

ROOT = Path(__file__).parent.parent
TAIL_BYTES = 2000
START_S, RUN_S = 300.0, 120.0


class Failed(Exception):
    """A system could not do what it was asked for; the message is for the report."""


class Group:
    """A process and all its descendants; what they say on stderr is kept for a failure's sake."""

    def __init__(self, command: Sequence[str | Path], env: dict[str, str]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            start_new_session=True,
        )

    def tail(self) -> str:
        """The last lines it said."""
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - TAIL_BYTES))
        return self._said.read().decode(errors="replace").strip()

    def resident_bytes(self) -> int:
        return resident_bytes(self.process.pid)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self._said):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def resident_bytes(pid: int) -> int:
    """Of a process and its descendants."""
    return sum(int(p.memory_info().rss) for p in _family(pid))


def cpu_s(pid: int, words: str = "") -> float:
    """Processor seconds so far of a process and its descendants, where the command line has
    `words`."""
    times = [p.cpu_times() for p in _family(pid) if words in " ".join(p.cmdline())]
    return float(sum(t.user + t.system for t in times))


def _family(pid: int) -> list[psutil.Process]:
    """Raises Failed when the process is gone."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.Error as error:
        raise Failed(f"process {pid} is gone") from error


class Worker:
    """A `benchmarks.worker.System` in a process; every order has a deadline."""

    def __init__(self, python: Path, module: str, env: dict[str, str]) -> None:
        self.group = Group([python, "-m", module], env)
        self.facts: dict[str, Any] = {}
        """What it says of itself, once it is started."""

    def start(self, options: dict[str, Any]) -> None:
        self.facts = self._order({"start": options}, START_S)

    def run(self, work: Work) -> Outcome:
        return Outcome(**self._order({"run": asdict(work)}, RUN_S))

    def perplexity(self, ids: Sequence[int]) -> float:
        return float(self._order({"perplexity": list(ids)}, RUN_S))

    def _order(self, order: dict[str, Any], timeout_s: float) -> Any:
        answer = json.loads(self._ask(json.dumps(order), timeout_s))
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer["done"]

    def _ask(self, line: str, timeout_s: float) -> str:
        stdin, stdout = self.group.process.stdin, self.group.process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(line.encode() + b"\n")
            stdin.flush()
        except OSError as error:
            raise Failed(f"it ended: {self.group.tail()}") from error
        with selectors.DefaultSelector() as ready:
            ready.register(stdout, selectors.EVENT_READ)
            if not ready.select(timeout_s):
                self.group.end()
                raise Failed(f"it gave no answer within {timeout_s:g} s, and was ended")
        # An answer is one write; its rest is on its way.
        answer = stdout.readline()
        if not answer:
            raise Failed(f"it ended: {self.group.tail()}")
        return answer.decode()


@contextmanager
def ended(group: Group) -> Iterator[Group]:
    """The group for the length of the block."""
    try:
        yield group
    finally:
        group.end()
