"""What the compute thread does for `fetch` and `load`: plain functions of a task."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from paceline.checkpoint import Progress, Store, pull, read_eos_ids
from paceline.checkpoint.facts import read_config
from paceline.process.home import Home
from paceline.runner.compute import Compute
from paceline.runner.kv_memory import KvMemory
from paceline.runner.pulse import Pulse
from paceline.types.tasks import Fetch, Load

Report = Callable[[int, int], None]
"""(done, total), in bytes or layers. May raise, which ends the task."""


class Loaded(msgspec.Struct, frozen=True):
    """A shard in memory and what a driver needs to know of its model."""

    compute: Compute
    kv: KvMemory
    kv_pages: int
    vocab_size: int
    max_context: int
    eos_ids: frozenset[int]


def fetch(home: Home, task: Fetch, report: Report) -> None:
    """Have the model in this node's store. Raises NotFound or CheckpointError."""

    def on_progress(progress: Progress) -> None:
        if progress.total_bytes:
            report(progress.done_bytes, progress.total_bytes)

    pull(task.model, Store(home.path), on_progress)


def load(home: Home, task: Load, report: Report, pulse: Pulse) -> Loaded:
    """Read the task's shard into memory. Raises CheckpointError or EngineError."""
    directory = Store(home.path).path(task.model)
    config = read_config(directory)
    eos_ids = read_eos_ids(directory)
    compute = Compute.load(
        directory,
        task.shard,
        dtype=task.dtype,
        kv_pages=task.kv_pages,
        vocab_size=config.vocab_size,
        eos_ids=eos_ids,
        on_layer=report,
        pulse=pulse,
    )
    return Loaded(
        compute, KvMemory(), task.kv_pages, config.vocab_size, config.max_context, eos_ids
    )
