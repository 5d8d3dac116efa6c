"""Where a runner has its checkpoints from: the disk, the nodes of the cluster, or their origin."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from paceline.checkpoint import OnProgress, Progress, Store, pull
from paceline.checkpoint.wanted import checkpoint_steps, shard_steps
from paceline.runner.gauge import Gauge, words
from paceline.transport.errors import NobodyGives
from paceline.transport.fetch import fetch_checkpoint
from paceline.transport.keys import KeyPair
from paceline.types.errors import CheckpointError, NotFound
from paceline.types.tasks import Fetch, Load

SAY_EVERY_S = 0.2

Report = Callable[[float, str], None]
"""How far a task is (0 … 1), and in words. May raise, which ends the task."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Supply:
    store: Store
    """Of this node."""
    keys: KeyPair
    """Of a member of the cluster."""

    def bring(self, task: Fetch | Load, report: Report, tick: Callable[[], None]) -> Path:
        """Directory of the task's checkpoint, with all that its shard needs. `tick` follows each
        sign of life. Raises NotFound or CheckpointError, and whatever `report` raises."""
        on_progress = _Sayer(report, tick)
        if not task.digest:
            return pull(task.model, self.store, on_progress)
        steps = shard_steps(task.shard) if task.shard else checkpoint_steps()
        try:
            directory = fetch_checkpoint(
                self.store, task.model, task.digest, steps, task.sources, self.keys, on_progress
            )
        except NobodyGives as nobody:
            log.warning("no node gives the model", model=task.model, reason=str(nobody))
            return self._from_origin(task, on_progress, nobody)
        # Not before: until it is here, another content of the name may be of use to somebody.
        self.store.drop_partials(task.model, keep=task.digest)
        return directory

    def _from_origin(
        self, task: Fetch | Load, on_progress: OnProgress, nobody: NobodyGives
    ) -> Path:
        """Only the whole can be had there, and it may be another by now."""
        try:
            directory = pull(task.model, self.store, on_progress)
        except NotFound as unknown:
            raise CheckpointError(f"{nobody}; and {unknown}") from unknown
        if self.store.whole(task.model, task.digest) is None:
            raise CheckpointError(
                f"{directory} is another {task.model} than the cluster's, and the cluster's cannot "
                f"be had now ({nobody}); `paceline rm {task.model}` here, and it is fetched from "
                "the others as soon as they answer"
            )
        self.store.drop_partials(task.model)
        return directory


class _Sayer:
    """From the progress of a fetch to the share and the words of its task."""

    def __init__(self, report: Report, tick: Callable[[], None]) -> None:
        self._report = report
        self._tick = tick
        self._gauge = Gauge()
        self._say_at = 0.0

    def __call__(self, progress: Progress) -> None:
        self._tick()
        now, gauge = time.monotonic(), self._gauge
        total = progress.total_bytes or 0
        gauge.read(progress.stage, progress.done_bytes, total, now)
        if now >= self._say_at:
            self._say_at = now + SAY_EVERY_S
            self._report(
                gauge.share, words(progress.done_bytes, total, gauge.rate(now), progress.note)
            )
