"""What a rank will occupy, in bytes of anonymous memory.

Files are mapped and converted tensor by tensor, so only what is kept counts: the shard's weights
in their dtype in memory, KV pages, activations of the widest step, and the process itself.
"""

from __future__ import annotations

import msgspec

from paceline.types.model import PAGE_TOKENS, ModelFacts, Shard

MIB = 1024**2
GIB = 1024**3


class Dtype(msgspec.Struct, frozen=True):
    """Bytes per element in memory."""

    weight: float
    kv: float


DTYPES = {"float32": Dtype(weight=4, kv=4), "int8": Dtype(weight=1.02, kv=2)}
AUTO_DTYPE = "int8"

PROCESS_BYTES = 220 * MIB
"""A runner with torch imported and its allocators warm, before any weight (measured: 150 MiB
after the first matrix product; the rest is sockets, buffers and arenas)."""

STEP_ROWS = 512
"""Rows of the widest step: the scheduler's row budget."""

STEP_SAMPLES = 64
"""Sequences that may be sampled in one step."""

ACTIVATION_WIDTHS = 16
"""Live intermediate values per row, in multiples of the model's width (residual, norm, q, k, v,
scores of a page, gate and up at about 8/3 width each, and the output)."""


class MemoryModel:
    """Predicts a rank's memory for one model and dtype; constant time per query."""

    def __init__(self, model: ModelFacts, dtype: str) -> None:
        self.model = model
        self.dtype = DTYPES[dtype]
        self._before = [0]
        for params in model.layer_params:
            self._before.append(self._before[-1] + params)

    @property
    def layers(self) -> int:
        return len(self.model.layer_params)

    def shard(self, start: int, stop: int) -> Shard:
        return Shard(start=start, stop=stop, layers=self.layers)

    def weight_bytes(self, shard: Shard) -> int:
        model = self.model
        params = self._before[shard.stop] - self._before[shard.start]
        if shard.is_first:
            params += model.embed_params
        if shard.is_last:
            # A tied table that this rank already holds as its embedding is one copy, not two.
            shared = model.embed_params if model.tied and shard.is_first else 0
            params += model.head_params - shared
        return int(params * self.dtype.weight)

    def kv_bytes(self, shard: Shard, kv_pages: int) -> int:
        per_token = 2 * self.model.kv_width * self.dtype.kv
        return int((shard.stop - shard.start) * kv_pages * PAGE_TOKENS * per_token)

    def activation_bytes(self, shard: Shard) -> int:
        values = STEP_ROWS * self.model.width * ACTIVATION_WIDTHS
        if shard.is_last:
            values += 3 * STEP_SAMPLES * self.model.vocab_size
        return 4 * values

    def rank_bytes(self, shard: Shard, kv_pages: int) -> int:
        return (
            self.weight_bytes(shard)
            + self.kv_bytes(shard, kv_pages)
            + self.activation_bytes(shard)
            + PROCESS_BYTES
        )


def pages_for(kv_tokens: int) -> int:
    """Pages that hold `kv_tokens`, rounded up."""
    return -(-kv_tokens // PAGE_TOKENS)


def human_bytes(count: float) -> str:
    """`1.9 GiB`, `700 MiB`: for sentences."""
    if count >= GIB:
        return f"{count / GIB:.1f} GiB"
    return f"{count / MIB:.0f} MiB"
