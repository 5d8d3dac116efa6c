"""Models as the controller sees them: on disk, on their way, or out of reach and why."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from paceline.checkpoint.cards import cards
from paceline.checkpoint.facts import model_facts
from paceline.checkpoint.manifest import MANIFEST_NAME
from paceline.checkpoint.pull import is_stored
from paceline.checkpoint.store import Store
from paceline.controller.facts import ModelSeen
from paceline.controller.pull import Report
from paceline.process.backoff import Backoff
from paceline.process.spawn import Child
from paceline.types.errors import PacelineError
from paceline.types.model import ModelFacts

STALL_S = 120.0
"""A pull without progress for so long is ended and tried again."""

END_S = 2.0
LOOK_AGAIN_S = 5.0
"""How long a checkpoint that cannot be read is left alone."""

MEGABYTE = 10**6


class _Pulling:
    def __init__(self, child: Child, now: float) -> None:
        self.child = child
        self.report = Report()
        self.moved_at = now


class Models:
    """`look` often: it reaps pulls. `home` is PACELINE_HOME."""

    def __init__(self, home: Path, clock: Callable[[], float]) -> None:
        self.store = Store(home)
        self._home = home
        self._clock = clock
        self._known: dict[str, tuple[int, ModelFacts]] = {}
        self._pulling: dict[str, _Pulling] = {}
        self._failures: dict[str, tuple[Backoff, ModelSeen]] = {}

    def look(self, names: Iterable[str]) -> dict[str, ModelSeen]:
        """What is known now of these models. Never raises."""
        for name in tuple(self._pulling):
            self._tend(name)
        return {name: self._seen(name) for name in set(names)}

    def facts(self, name: str) -> ModelFacts | None:
        """Sizes of a model that is on disk, None if it is not, or is to be pulled again. Raises
        PacelineError if what is there cannot be read."""
        if not self.store.has(name):
            self._known.pop(name, None)
            return None
        directory = self.store.path(name)
        version = (directory / MANIFEST_NAME).stat().st_mtime_ns
        known = self._known.get(name)
        if known is None or known[0] != version:
            if not is_stored(name, self.store, cards().get(name)):
                return None
            known = self._known[name] = (version, model_facts(directory, name))
        return known[1]

    def pull(self, name: str) -> None:
        """Starts a process that brings the model here, if none does. Call from the main thread."""
        if name in self._pulling:
            return
        argv = [sys.executable, "-m", "paceline.controller.pull", name, "--home", str(self._home)]
        try:
            child = Child(argv, name=f"pull-{name}")
        except OSError as error:
            self._fail(name, f"the pull could not be started: {error}")
            return
        self._pulling[name] = _Pulling(child, self._clock())

    def close(self) -> None:
        for pulling in self._pulling.values():
            pulling.child.kill("the controller ends")
            pulling.child.wait(END_S)
        self._pulling.clear()

    def _seen(self, name: str) -> ModelSeen:
        pulling = self._pulling.get(name)
        if pulling is not None:
            return ModelSeen(pulling=progress_words(pulling.report))
        failed = self._failures.get(name)
        if failed is not None and self._clock() < failed[1].retry_at:
            return failed[1]
        try:
            facts = self.facts(name)
        except (PacelineError, OSError) as error:
            self._fail(name, str(error), at_least_s=LOOK_AGAIN_S)
            return self._failures[name][1]
        if facts is not None:
            self._failures.pop(name, None)
            return ModelSeen(facts=facts)
        return failed[1] if failed else ModelSeen()

    def _tend(self, name: str) -> None:
        pulling, now = self._pulling[name], self._clock()
        latest = _last_report(pulling.child.tail)
        if latest is not None and latest != pulling.report:
            pulling.report, pulling.moved_at = latest, now
        ended = pulling.child.poll()
        if ended is None:
            if now - pulling.moved_at > STALL_S:
                pulling.child.kill(f"no progress for {STALL_S:.0f} s")
            return
        del self._pulling[name]
        if ended.code != 0:
            said = _last_report(ended.log_tail)
            why = said.failure if said and said.failure else f"the pull {ended.sentence}"
            self._fail(name, why)

    def _fail(self, name: str, why: str, *, at_least_s: float = 0.0) -> None:
        before = self._failures[name][0] if name in self._failures else Backoff()
        # A pull that dies late is no healthier than one that dies early.
        backoff, delay_s = before.after(0.0)
        retry_at = self._clock() + max(delay_s, at_least_s)
        self._failures[name] = (
            backoff,
            ModelSeen(failure=" ".join(why.split()), retry_at=retry_at),
        )


def progress_words(report: Report) -> str:
    """`34 % of 98 MB (wheel)`, or what is known of it."""
    stage = f" ({report.stage})" if report.stage else ""
    if report.total_bytes:
        percent = 100 * report.done_bytes // report.total_bytes
        return f"{percent} % of {report.total_bytes / MEGABYTE:.0f} MB{stage}"
    if report.done_bytes:
        return f"{report.done_bytes / MEGABYTE:.0f} MB{stage}"
    return f"starting{stage}"


def _last_report(lines: Iterable[str]) -> Report | None:
    for line in reversed(tuple(lines)):
        if line.startswith("{"):
            try:
                return msgspec.json.decode(line, type=Report)
            except msgspec.DecodeError:
                continue
    return None
