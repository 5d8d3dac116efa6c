"""`paceline chaos`: streams on a cluster of our own, whose runners are killed at random by SIGKILL;
at the end, what its clients noticed of it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import SequenceMatcher
from typing import Any

import msgspec

from paceline.bench import quantile
from paceline.cli import show
from paceline.cli.api import Api
from paceline.cli.listening import Listener, pauses
from paceline.cli.models import ensure_model
from paceline.cli.private import private_cluster
from paceline.cli.run import Question, ready_instance
from paceline.process.home import Home
from paceline.types.errors import PacelineError

TOKENS = 128
BETWEEN_S = (3.0, 7.0)
"""From one kill to the next."""
END_S = 180.0
LOOK_S = 0.1

TOPICS = (
    "a lighthouse", "the sea", "a clockmaker", "winter", "a fox", "two brothers", "an old bridge",
    "the moon", "a train at night", "bread", "a lost letter", "the desert", "a violin", "rain",
    "a map", "the first bicycle",
)  # fmt: skip


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    nodes: int
    streams: int
    kills: int
    seed: int
    dtype: str = "auto"


class Report(msgspec.Struct, kw_only=True):
    """What clients noticed."""

    model: str
    ranks: int
    kills: int
    answers: int = 0
    tokens: int = 0
    errors: int = 0
    lost: int = 0
    """Tokens of the undisturbed answers that did not come."""
    repeated: int = 0
    """Tokens that came and are not of the undisturbed answers, in their order."""
    pause_p50_s: float = 0.0
    pause_p99_s: float = 0.0
    """Of every stream around every kill: how long nothing came."""
    said: list[str] = []
    """What errors said."""

    @property
    def is_unbroken(self) -> bool:
        return not (self.errors or self.lost or self.repeated)

    @property
    def sentence(self) -> str:
        return f"{self.errors} errors, {self.lost} lost, {self.repeated} repeated"


class Scene(msgspec.Struct, kw_only=True):
    """What there is to be seen now."""

    wish: Wish
    act: str
    listeners: Sequence[Listener] = ()
    expected: Sequence[int] = ()
    """Tokens of each answer; empty while that is being found out."""
    runners: Sequence[show.Row] = ()
    state: str = ""
    killed: list[str] = []


Watch = Callable[[Scene], None]


def chaos(home: Home, wish: Wish, watch: Watch) -> Report:
    """`watch` is shown the scene many times a second."""
    ensure_model(wish.model, home)
    with private_cluster(home, wish.nodes) as api:
        watch(Scene(wish=wish, act="the cluster starts"))
        question = Question(model=wish.model, prompt="", min_nodes=wish.nodes, dtype=wish.dtype)
        instance = ready_instance(api, question)
        return Chaos(api, instance["id"], wish, watch).run()


class Chaos:
    """One instance, the same streams over and over, and somebody who kills."""

    def __init__(self, api: Api, instance: str, wish: Wish, watch: Watch) -> None:
        self._api = api
        self._instance = instance
        self._wish = wish
        self._watch = watch
        self._dice = random.Random(wish.seed)
        self._scene = Scene(wish=wish, act="")
        self._kills_at: list[float] = []
        self._next_kill = 0.0

    def run(self) -> Report:
        self._scene.act = "in peace: what the answers are when nothing happens"
        calm = self._round(kill=False)
        for listener in calm:
            if listener.error:
                raise PacelineError(f"a stream failed before anything happened: {listener.error}")
        expected = [listener.reply.token_ids for listener in calm]
        self._scene.expected = [len(ids) for ids in expected]
        self._scene.act = "runners are killed with SIGKILL"
        self._next_kill = time.monotonic() + self._dice.uniform(1.0, 2.0)
        report = Report(model=self._wish.model, ranks=len(self._look()), kills=0)
        waits: list[float] = []
        while len(self._kills_at) < self._wish.kills:
            listeners = self._round(kill=True)
            for listener, ids in zip(listeners, expected, strict=True):
                _add(report, listener, ids)
            waits += pauses(listeners, self._kills_at)
        waits.sort()
        report.kills = len(self._kills_at)
        report.pause_p50_s, report.pause_p99_s = (quantile(waits, s) for s in (0.5, 0.99))
        return report

    def _round(self, *, kill: bool) -> Sequence[Listener]:
        listeners = [Listener(self._api.url, body) for body in self._bodies()]
        self._scene.listeners = listeners
        deadline = time.monotonic() + END_S
        while any(one.goes_on for one in listeners) and time.monotonic() < deadline:
            self._look()
            if kill and time.monotonic() >= self._next_kill:
                self._kill()
            self._watch(self._scene)
            time.sleep(LOOK_S)
        for listener in listeners:
            listener.wait(max(0.0, deadline - time.monotonic()))
        return listeners

    def _bodies(self) -> Iterator[dict[str, Any]]:
        for number in range(self._wish.streams):
            yield {
                "model": self._wish.model,
                "prompt": f"A short story about {TOPICS[number % len(TOPICS)]}, number {number}.",
                "max_tokens": TOKENS,
                "temperature": 0.8,
                "seed": number,
                "ignore_eos": True,
                "return_token_ids": True,
            }

    def _look(self) -> Sequence[show.Row]:
        with suppress(PacelineError):  # what is not known now is known in a moment
            found = self._api.get(f"/api/instances/{self._instance}")
            self._scene.state, self._scene.runners = found["state"], found["runners"]
        return self._scene.runners

    def _kill(self) -> None:
        there = [runner for runner in self._scene.runners if runner["pid"]]
        if len(self._kills_at) >= self._wish.kills or not there:
            return
        victim = self._dice.choice(there)
        with suppress(ProcessLookupError):
            os.kill(victim["pid"], signal.SIGKILL)
            self._kills_at.append(time.monotonic())
            self._scene.killed.append(f"rank {victim['rank']} on {victim['node']}")
        self._next_kill = time.monotonic() + self._dice.uniform(*BETWEEN_S)


def _add(report: Report, listener: Listener, expected: Sequence[int]) -> None:
    got = listener.reply.token_ids
    matcher = SequenceMatcher(None, expected, got, autojunk=False)
    same = len(got) if got == expected else sum(b.size for b in matcher.get_matching_blocks())
    report.answers += 1
    report.tokens += len(got)
    report.lost += len(expected) - same
    report.repeated += len(got) - same
    if listener.error:
        report.errors += 1
        report.said = [*report.said, listener.error]


@contextmanager
def plainly() -> Iterator[Watch]:
    """A line for every act and every kill, where there is no terminal."""
    act, kills = "", 0

    def watch(scene: Scene) -> None:
        nonlocal act, kills
        if scene.act != act:
            act = scene.act
            show.err.print(act, markup=False)
        for who in scene.killed[kills:]:
            show.err.print(f"killed {who}", markup=False)
        kills = len(scene.killed)

    yield watch
