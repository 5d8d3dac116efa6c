"""The pause that clients see when a runner is killed, and what its phases take.

Two virtual nodes, weights on disk, 16 streams of up to 128 tokens, one SIGKILL at a time to a
random rank, with health between them. Beside it the same kill of llama.cpp's server, as its users
run it: one process, started again when it has ended.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import peers
from benchmarks.contenders import default_model
from benchmarks.parts.works import Plan
from benchmarks.processes import Failed
from benchmarks.report import Result, Table, failures
from paceline.bench import quantile
from paceline.checkpoint import DEFAULT_MODEL
from paceline.cli.api import Api
from paceline.cli.listening import Listener, pauses
from paceline.cli.models import ensure_model
from paceline.cli.private import private_cluster
from paceline.cli.run import Question, ready_instance
from paceline.process.home import Home
from paceline.types.errors import PacelineError

STREAMS = 16
TOKENS = 128
KILLS = 3
HEALTH_S = 11.0
"""From when a round's streams go on to the next kill: what makes earlier failures forgotten."""
END_S = 120.0
NODES = 2
PHASES = ("detect", "replace", "replay")


def measure(plan: Plan) -> Result:
    found: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for name, one in {"Paceline": measure_paceline, "llama.cpp server": measure_peer}.items():
        if not plan.wants(name):
            continue
        try:
            found[name] = one()
        except (Failed, PacelineError, httpx.HTTPError) as error:
            failed[name] = str(error)
    table = Table(
        title=f"A kill under {STREAMS} streams, {KILLS} times",
        columns=(
            "",
            "answers",
            "errors",
            "pause, p50",
            "p99",
            *(f"{phase}, mean" for phase in PHASES),
            "answers again after",
        ),
        rows=tuple(_row(name, seen) for name, seen in found.items()),
        notes=failures(failed),
    )
    return Result(tables=(table,), data={"found": found, "failed": failed})


def _row(name: str, seen: dict[str, Any]) -> tuple[str, ...]:
    phases = seen.get("phases_mean_s", {})
    return (
        name,
        str(seen["answers"]),
        str(seen["errors"]),
        *(
            _seconds(seen[key] if seen["pauses"] else None)
            for key in ("pause_p50_s", "pause_p99_s")
        ),
        *(_seconds(phases.get(phase)) for phase in PHASES),
        _seconds(seen.get("back_s")),
    )


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def measure_paceline() -> dict[str, Any]:
    home, dice = Home(), random.Random(1)
    ensure_model(DEFAULT_MODEL, home)
    with private_cluster(home, NODES) as api:
        question = Question(model=DEFAULT_MODEL, prompt="", min_nodes=NODES)
        instance = ready_instance(api, question)["id"]

        def kill() -> float:
            runners = api.get(f"/api/instances/{instance}")["runners"]
            os.kill(dice.choice(runners)["pid"], signal.SIGKILL)
            return time.monotonic()

        found = _kills(api.url, DEFAULT_MODEL, kill, dice)
        return {**found, "phases_mean_s": _phases(api)}


def _kills(url: str, model: str, kill: Callable[[], float], dice: random.Random) -> dict[str, Any]:
    """One kill in the midst of each round of streams; `kill` tells when it was."""
    waits: list[float] = []
    errors = answers = begun = 0
    for number in range(KILLS):
        time.sleep(HEALTH_S if number else 0.0)
        listeners = [Listener(url, body) for body in _bodies(model)]
        _until(lambda heard=listeners: all(one.heard_at or not one.goes_on for one in heard))
        time.sleep(dice.uniform(0.0, 0.5))
        begun += sum(bool(one.heard_at) for one in listeners)
        killed_at = kill()
        for listener in listeners:
            listener.wait(END_S)
        waits += pauses([one for one in listeners if not one.error], [killed_at])
        answers += len(listeners)
        errors += sum(bool(one.error) for one in listeners)
    waits.sort()
    return {
        "kills": KILLS,
        "answers": answers,
        "begun_before": begun,
        "errors": errors,
        "pauses": len(waits),
        "pause_p50_s": round(quantile(waits, 0.5), 2),
        "pause_p99_s": round(quantile(waits, 0.99), 2),
        "pause_longest_s": round(waits[-1], 2) if waits else None,
    }


def _bodies(model: str) -> Iterator[dict[str, Any]]:
    for number in range(STREAMS):
        yield {
            "model": model,
            "prompt": f"A short story about the number {number}:",
            "max_tokens": TOKENS,
            "temperature": 0.8,
            "seed": number,
            "ignore_eos": True,
        }


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + END_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def _phases(api: Api) -> dict[str, float]:
    """Of all pauses, as the gateway counts them."""
    text = httpx.get(f"{api.url}/metrics").text
    sums = dict.fromkeys(PHASES, 0.0)
    counts = dict.fromkeys(PHASES, 0.0)
    for family in text_string_to_metric_families(text):
        if family.name != "paceline_stream_pause_seconds":
            continue
        for sample in family.samples:
            into = {"_sum": sums, "_count": counts}.get(sample.name.removeprefix(family.name))
            if into is not None:
                into[sample.labels["phase"]] += sample.value
    return {name: round(sums[name] / max(counts[name], 1), 3) for name in PHASES}


# --- the peer ------------------------------------------------------------------------------------

SERVE = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[1], int(sys.argv[2])
params.n_parallel, params.n_ctx = 16, 16 * 512
server = xllamacpp.Server(params)
while True:
    time.sleep(1)
"""


def measure_peer() -> dict[str, Any]:
    """Raises Failed where the peer is not there."""
    if not peers.can_import("llama", "xllamacpp"):
        raise Failed("not installed: `make peers` does it")
    command = [str(peers.python_of("llama")), "-c", SERVE, str(default_model().gguf())]
    with Peer(command).running() as peer:
        found = _kills(peer.url, "peer", peer.kill, random.Random(1))
        return {**found, "back_s": round(quantile(peer.back_s, 0.5), 2)}


class Peer:
    """A server process that is started again when it has ended, as a service manager does it."""

    def __init__(self, argv: Sequence[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._argv = [*argv, str(port)]
        self._process: subprocess.Popen[bytes] | None = None
        self.back_s: list[float] = []
        """For each kill: until it answered again."""

    @contextmanager
    def running(self) -> Iterator[Peer]:
        self._start()
        try:
            yield self
        finally:
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def kill(self) -> float:
        assert self._process is not None
        began = time.monotonic()
        self._process.kill()
        self._process.wait()
        self._start()
        self.back_s.append(round(time.monotonic() - began, 2))
        return began

    def _start(self) -> None:
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self._argv, stdout=quiet, stderr=quiet)
        _until(self._answers)

    def _answers(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=1.0).status_code == 200
        return False
