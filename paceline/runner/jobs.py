"""What the compute thread does for `fetch` and `load`: plain functions of a task."""

from __future__ import annotations

from pathlib import Path

import msgspec

from paceline.checkpoint import read_eos_ids
from paceline.checkpoint.facts import read_config
from paceline.runner.compute import Compute
from paceline.runner.kv_memory import KvMemory
from paceline.runner.pulse import FETCH, Pulse
from paceline.runner.supply import Report, Supply
from paceline.types.tasks import Fetch, Load


class Loaded(msgspec.Struct, frozen=True):
    """A shard in memory and what a driver needs to know of its model."""

    compute: Compute
    kv: KvMemory
    kv_pages: int
    vocab_size: int
    max_context: int
    eos_ids: frozenset[int]


def fetch(supply: Supply, task: Fetch, report: Report, pulse: Pulse) -> None:
    """Have what the task's shard needs on this node's disk. Raises NotFound or CheckpointError."""
    _brought(supply, task, report, pulse)


def load(supply: Supply, task: Load, report: Report, pulse: Pulse) -> Loaded:
    """Read the task's shard into memory. Raises NotFound, CheckpointError or EngineError."""
    if task.digest:
        directory = _brought(supply, task, lambda share, said: report(share / 2, said), pulse)
    else:
        directory = supply.store.path(task.model)
    config = read_config(directory)
    eos_ids = read_eos_ids(directory)
    compute = Compute.load(
        directory,
        task.shard,
        dtype=task.dtype,
        kv_pages=task.kv_pages,
        vocab_size=config.vocab_size,
        eos_ids=eos_ids,
        on_layer=lambda done, total: report(0.5 + done / total / 2, ""),
        pulse=pulse,
    )
    return Loaded(
        compute, KvMemory(), task.kv_pages, config.vocab_size, config.max_context, eos_ids
    )


def _brought(supply: Supply, task: Fetch | Load, report: Report, pulse: Pulse) -> Path:
    pulse.begin(FETCH)
    try:
        return supply.bring(task, report, pulse.tick)
    finally:
        pulse.end()
