"""A whole local cluster on the real model, started the way `paceline run` starts one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from paceline.cli.api import Api
from paceline.cluster.local.detached import Detached, start_detached
from paceline.cluster.local.options import UpOptions
from paceline.process.home import Home
from tests.support.models import smollm2_dir

MODEL = "smollm2-135m-instruct"
GIB = 2**30
WAIT_S = 90.0


class LocalCluster:
    """`api` is its gateway, `home` its own home over the models that all tests share."""

    def __init__(self, home: Home, detached: Detached, api: Api) -> None:
        self.home = home
        self.detached = detached
        self.api = api

    def create(self, **wish: Any) -> str:
        made = self.api.post("/api/instances", {"model": MODEL, **wish})
        return str(made["id"])

    def instance(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/api/instances/{name}")
        return found

    def wait(self, what: str, condition: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                status = self.api.get("/api/status")
                raise AssertionError(f"waited {timeout_s:g} s for {what}: {status}")
            time.sleep(0.1)
        return value

    def ready(self, name: str) -> dict[str, Any]:
        self.wait(f"{name} to be ready", lambda: self.instance(name)["state"] == "ready")
        return self.instance(name)

    def processes(self, words: str) -> list[psutil.Process]:
        """Those of this cluster whose command line has `words`."""
        parent = psutil.Process(self.detached.pid)
        return [p for p in parent.children(recursive=True) if words in " ".join(_cmdline(p))]

    def ask(self, text: str = "What is the capital of France?", **options: Any) -> str:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": 32,
        }
        answer = self.api.post("/v1/chat/completions", body | options)
        return str(answer["choices"][0]["message"]["content"])


@contextmanager
def local_cluster(
    path: Path, nodes: int = 2, memory: int = 3 * GIB, models: Path | None = None
) -> Iterator[LocalCluster]:
    """`models`: the store's directory of models; by default the one that all tests share."""
    home = Home(path)
    home.create()
    home.models.symlink_to(models or smollm2_dir().parent)
    options = UpOptions(home=str(path), nodes=nodes, node_memory=memory, port=0)
    with start_detached(options) as detached:
        yield LocalCluster(home, detached, Api(detached.wait_ready(30).url))


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
