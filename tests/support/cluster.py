"""A whole local cluster, started the way `paceline run` starts one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from paceline.cli.api import Api
from paceline.cluster.local.detached import Detached, start_detached
from paceline.cluster.local.options import Programs, UpOptions
from paceline.process.home import Home
from paceline.types.errors import PacelineError
from tests.support.models import smollm2_dir

MODEL = "smollm2-135m-instruct"
GIB = 2**30
WAIT_S = 90.0
PROGRAMS = Programs()


class Served:
    """A cluster as its gateway `api` shows it; `home` is that of its controller."""

    def __init__(self, home: Home, api: Api) -> None:
        self.home = home
        self.api = api

    def create(self, model: str = MODEL, **wish: Any) -> str:
        made = self.api.post("/api/instances", {"model": model, **wish})
        return str(made["id"])

    def delete(self, name: str) -> None:
        """And wait until it is gone."""
        self.api.delete(f"/api/instances/{name}")
        there = lambda: [one["id"] for one in self.api.get("/api/instances")]  # noqa: E731
        self.wait(f"{name} to be gone", lambda: name not in there())

    def instance(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/api/instances/{name}")
        return found

    def ranks(self, name: str) -> dict[int, dict[str, Any]]:
        """The runners on its seats, by rank."""
        return {runner["rank"]: runner for runner in self.instance(name)["runners"]}

    def pids(self, name: str) -> dict[int, int]:
        return {rank: runner["pid"] for rank, runner in self.ranks(name).items()}

    def wait(self, what: str, condition: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (value := self._try(condition)):
            if time.monotonic() > deadline:
                status = self._try(lambda: self.api.get("/api/status"))
                raise AssertionError(f"waited {timeout_s:g} s for {what}: {status}")
            time.sleep(0.05)
        return value

    def ready(self, name: str, after: list[int] | None = None) -> dict[str, Any]:
        """Waits until it is ready, in an epoch later than `after`."""
        at_least = after or [0, 0]

        def is_ready() -> dict[str, Any] | None:
            found = self.instance(name)
            return found if found["state"] == "ready" and found["epoch"] > at_least else None

        found: dict[str, Any] = self.wait(f"{name} to be ready", is_ready)
        return found

    def term(self) -> int:
        """The controller's; -1 while it is away."""
        status = self._try(lambda: self.api.get("/api/status"))
        return int(status["term"]) if status else -1

    def events(self) -> list[dict[str, Any]]:
        """What the controller has decided, from its file: also while it is away."""
        return read_lines(self.home.logs / "events.jsonl")

    def ask(self, text: str = "What is the capital of France?", **options: Any) -> str:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": 32,
        }
        answer = self.api.post("/v1/chat/completions", body | options)
        return str(answer["choices"][0]["message"]["content"])

    @staticmethod
    def _try(condition: Callable[[], Any]) -> Any:
        """A gateway or controller that is away for a moment has no answer."""
        try:
            return condition()
        except PacelineError:
            return None


class LocalCluster(Served):
    """Its home is its own, over the models that all tests share."""

    def __init__(self, home: Home, detached: Detached, api: Api) -> None:
        super().__init__(home, api)
        self.detached = detached

    def processes(self, words: str) -> list[psutil.Process]:
        """Those of this cluster whose command line has `words`."""
        return [p for p in self.family() if words in " ".join(_cmdline(p))]

    def family(self) -> list[psutil.Process]:
        """The parent and all that it and its children have started."""
        parent = psutil.Process(self.detached.pid)
        return [parent, *parent.children(recursive=True)]


@contextmanager
def local_cluster(
    path: Path,
    nodes: int = 2,
    memory: int = 3 * GIB,
    models: Path | None = None,
    programs: Programs = PROGRAMS,
) -> Iterator[LocalCluster]:
    """`models` is linked into the home; the directory of the real model if it is not given. A
    home that has models already keeps them."""
    home = Home(path)
    home.create()
    if not home.models.is_symlink() and not home.models.exists():
        home.models.symlink_to(models or smollm2_dir().parent)
    options = UpOptions(home=str(path), nodes=nodes, node_memory=memory, port=0, programs=programs)
    with start_detached(options) as detached:
        yield LocalCluster(home, detached, Api(detached.wait_ready(30).url))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a log and of its older part; a last line that is being written is left."""
    older = path.with_name(f"{path.name}.1")
    text = "".join(p.read_text() for p in (older, path) if p.exists())
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
