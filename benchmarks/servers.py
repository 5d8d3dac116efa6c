"""Servers of OpenAI's API, each in processes of its own, for clients on the same machine."""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import msgspec

from benchmarks import peers
from benchmarks.contenders import Model, vllm_environment
from benchmarks.processes import Failed, Group, cpu_s, ended, resident_bytes
from paceline.bench import Target
from paceline.checkpoint import DEFAULT_MODEL
from paceline.cli.api import Api
from paceline.cluster.local.detached import start_detached
from paceline.cluster.local.options import UpOptions
from paceline.process.home import Home
from paceline.types.errors import PacelineError
from paceline.types.states import InstanceState, Objective

READY_S = 420.0
POLL_S = 0.2
KV_TOKENS = 8192
"""For all streams of a server together, the same for each."""
STREAMS = 32


class Serving(msgspec.Struct, frozen=True):
    """A server that answers."""

    target: Target
    model: str
    pid: int

    def resident_bytes(self) -> int:
        return resident_bytes(self.pid)

    def cpu_s(self, words: str = "") -> float:
        """Processor seconds so far, of the server's processes whose command line has `words`."""
        return cpu_s(self.pid, words)


class Server(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    start: Callable[[], AbstractContextManager[Serving]]
    """Raises Failed when it cannot be started."""
    missing: str = ""


def paceline(
    nodes: int,
    ranks: int,
    dtype: str,
    name: str = "",
    kv_tokens: int = KV_TOKENS,
    objective: Objective = Objective.LATENCY,
) -> Server:
    """A local cluster; its runners share the processors out among the nodes."""
    start = partial(_paceline, nodes, ranks, dtype, kv_tokens, objective)
    return Server(name=name or f"Paceline {dtype}", start=start)


def xllamacpp(model: Model, file_type: str, threads: int) -> Server:
    there = peers.can_import("llama", "xllamacpp")
    return Server(
        name=f"llama.cpp server {file_type}",
        start=partial(_xllamacpp, model, file_type, threads),
        missing="" if there else "not installed: `make peers` does it",
    )


def vllm(model: Model, threads: int, precision: str) -> Server:
    there = peers.can_import("vllm", "vllm")
    return Server(
        name=f"vLLM serve {precision}",
        start=partial(_vllm, model, threads, precision),
        missing="" if there else "not installed: `make peers` does it",
    )


@contextmanager
def _paceline(
    nodes: int, ranks: int, dtype: str, kv_tokens: int, objective: Objective
) -> Iterator[Serving]:
    home = Home()
    try:
        with tempfile.TemporaryDirectory(prefix="paceline-") as directory:
            Path(directory, "models").symlink_to(home.models)
            options = UpOptions(home=directory, nodes=nodes, port=0)
            with start_detached(options) as cluster:
                api = Api(cluster.wait_ready(READY_S).url)
                _make_ready(api, ranks, dtype, kv_tokens, objective)
                yield Serving(Target(api.url), DEFAULT_MODEL, cluster.pid)
    except PacelineError as error:
        raise Failed(str(error)) from error


def _make_ready(api: Api, ranks: int, dtype: str, kv_tokens: int, objective: Objective) -> None:
    wish = {
        "model": DEFAULT_MODEL,
        "min_nodes": ranks,
        "max_nodes": ranks,
        "dtype": dtype,
        "kv_tokens": kv_tokens,
        "objective": objective,
    }
    made = api.post("/api/instances", wish)
    deadline = time.monotonic() + READY_S
    while (found := api.get(f"/api/instances/{made['id']}"))["state"] != InstanceState.READY:
        if time.monotonic() > deadline:
            raise Failed(f"it is {found['state']}: {'; '.join(found['reasons'])}")
        time.sleep(POLL_S)


@contextmanager
def _xllamacpp(model: Model, file_type: str, threads: int) -> Iterator[Serving]:
    port = _free_port()
    options = {
        "model": str(model.quantised(file_type)),
        "threads": threads,
        "port": port,
        "streams": STREAMS,
        "tokens": KV_TOKENS,
    }
    command: list[str | Path] = [
        peers.python_of("llama"), "-m", "benchmarks.systems.llama_server", json.dumps(options),
    ]  # fmt: skip
    with ended(Group(command, {})) as group:
        yield _answering(group, port, DEFAULT_MODEL)


@contextmanager
def _vllm(model: Model, threads: int, precision: str) -> Iterator[Serving]:
    port = _free_port()
    checkpoint, dtype = model.for_vllm(precision)
    command: list[str | Path] = [
        peers.python_of("vllm"), "-m", "vllm.entrypoints.openai.api_server",
        f"--model={checkpoint}", f"--served-model-name={DEFAULT_MODEL}",
        f"--dtype={dtype}", "--max-model-len=4096", "--max-num-seqs=64",
        "--no-enable-prefix-caching", "--host=127.0.0.1", f"--port={port}",
    ]  # fmt: skip
    with ended(Group(command, vllm_environment(threads))) as group:
        yield _answering(group, port, DEFAULT_MODEL)


def _answering(group: Group, port: int, model: str) -> Serving:
    """The server, once /health says so."""
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if group.process.poll() is not None:
            raise Failed(f"it ended: {group.tail()}")
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return Serving(Target(url), model, group.process.pid)
        time.sleep(POLL_S)
    raise Failed(f"it did not answer within {READY_S:g} s: {group.tail()}")


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
