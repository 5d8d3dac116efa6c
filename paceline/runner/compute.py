"""What the compute thread runs: a loaded shard and, on the last rank, the sampler behind it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch

from paceline.engine.sampler import Sampler
from paceline.engine.stage import Stage
from paceline.runner.pulse import Pulse
from paceline.types.errors import EngineError
from paceline.types.model import Shard
from paceline.types.step import Sampled, SampledToken, Step

# A frame's memory, which nobody writes.
warnings.filterwarnings("ignore", "The given buffer is not writable")


class Hidden(msgspec.Struct, frozen=True):
    """A step's rows on their way to the next rank: float32 [rows, width]."""

    step: Step
    rows: torch.Tensor


class Compute:
    """Entered only by the compute thread, once `load` has run there."""

    def __init__(
        self,
        stage: Stage,
        shard: Shard,
        vocab_size: int,
        eos_ids: frozenset[int],
        pulse: Pulse,
    ) -> None:
        self.stage = stage
        self._pulse = pulse
        self.shard = shard
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self.begin_line()

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        shard: Shard,
        *,
        dtype: str,
        kv_pages: int,
        vocab_size: int,
        eos_ids: frozenset[int],
        on_layer: Callable[[int, int], None],
        pulse: Pulse,
    ) -> Compute:
        def tick(done: int, total: int) -> None:
            pulse.tick()
            on_layer(done, total)

        pulse.begin("load")
        try:
            stage = Stage.load(checkpoint, shard, dtype=dtype, kv_pages=kv_pages, on_layer=tick)
        finally:
            pulse.end()
        return cls(stage, shard, vocab_size, eos_ids, pulse)

    def begin_line(self) -> None:
        """A new epoch: no slot of an older one means anything any more."""
        self._sampler = Sampler(self._vocab_size, self._eos_ids, self.stage.draw)

    def run(self, step: Step, payload: memoryview | None) -> Hidden | Sampled:
        """One step through this shard. `payload` is the previous rank's rows (float32 bytes);
        the first rank reads the step's own token ids instead. Raises EngineError."""
        self._pulse.begin("step", step.rows)
        try:
            return self._run(step, payload)
        finally:
            self._pulse.end()

    def _run(self, step: Step, payload: memoryview | None) -> Hidden | Sampled:
        if self.shard.is_last:
            for slot in step.freed:
                self._sampler.free(slot)
            for admission in step.admitted:
                self._sampler.admit(admission)
        output = None
        if step.spans:
            output = self.stage.forward(step.spans, self._input(step, payload), self._pulse.tick)
        if not self.shard.is_last:
            return Hidden(step, torch.empty(0) if output is None else output)
        tokens: Sequence[SampledToken] = ()
        slots = step.sampled_slots
        if slots and output is not None:
            tokens = self._sampler.sample(slots, output, step.guesses)
        return Sampled(number=step.number, tokens=tuple(tokens))

    def _input(self, step: Step, payload: memoryview | None) -> torch.Tensor:
        if self.shard.is_first:
            return torch.tensor(step.token_ids, dtype=torch.int64)
        if payload is None:
            raise EngineError(f"step {step.number} came without the previous rank's rows")
        rows = torch.frombuffer(payload, dtype=torch.float32)
        if step.rows == 0 or rows.numel() % step.rows:
            raise EngineError(f"step {step.number}: {rows.numel()} values for {step.rows} rows")
        return rows.view(step.rows, -1)
