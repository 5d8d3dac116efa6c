"""What a rank will occupy, in bytes of anonymous memory.

Files are mapped and converted tensor by tensor, so only what is kept counts: the shard's weights
in their dtype in memory, KV pages, activations of the widest step, headroom over these, and the
process itself.

All of it adds up, piece by piece, in whole bytes: a rank is its fixed part, its layers, and the
extras of a first and of a last rank. The search works with prefix sums of exactly these pieces.
"""

from __future__ import annotations

from itertools import accumulate

import msgspec

from paceline.planner.sizes import MIB
from paceline.types.model import PAGE_TOKENS, ModelFacts, Shard


class Dtype(msgspec.Struct, frozen=True):
    """Bytes per element in memory, and what it asks of a model."""

    weight: float
    """Of layers."""
    table: float
    """Of the embedding and the head."""
    kv: float
    depth_multiple: int = 1
    """What the depth of every matrix in a layer has to be a multiple of."""


DTYPES = {
    "float32": Dtype(weight=4, table=4, kv=4),
    "int8": Dtype(weight=1.02, table=1.02, kv=2),
    "int4": Dtype(weight=0.58, table=1.02, kv=2, depth_multiple=64),
}
"""A dtype is known here or nowhere."""

AUTO_DTYPE = "int8"

PROCESS_BYTES = 180 * MIB
"""A runner with torch imported and its allocators warm, before any weight (measured: 159 MiB
after its pace was taken; the rest is sockets, buffers and arenas)."""

HEADROOM = 20
"""One part in so many is added to all that is allocated: for fragments, and for blocks that
are read while loading."""

STEP_ROWS = 512
"""Rows of the widest step: the scheduler's row budget."""

STEP_SAMPLES = 64
"""Sequences that may be sampled in one step."""

ACTIVATION_WIDTHS = 16
"""Live intermediate values per row, in multiples of the model's width (residual, norm, q, k, v,
scores of a page, gate and up at about 8/3 width each, and the output)."""

VALUE_BYTES = 4
"""Of an activation, in a rank and between ranks."""


class MemoryModel:
    """Predicts a rank's memory for one model and dtype; constant time per query."""

    def __init__(self, model: ModelFacts, dtype: str) -> None:
        self.model = model
        self.dtype_name = dtype
        self.dtype = DTYPES[dtype]
        self._weights = (
            0,
            *accumulate(int(params * self.dtype.weight) for params in model.layer_params),
        )

    @property
    def layers(self) -> int:
        return len(self.model.layer_params)

    def shard(self, start: int, stop: int) -> Shard:
        return Shard(start=start, stop=stop, layers=self.layers)

    # --- the pieces ------------------------------------------------------------------------------

    @property
    def layer_weights(self) -> tuple[int, ...]:
        """Bytes of the first 0, 1, 2 … layers: a prefix sum, one entry more than layers."""
        return self._weights

    @property
    def embed_weights(self) -> int:
        return self._table_bytes(self.model.embed_params)

    @property
    def head_weights(self) -> int:
        return self._table_bytes(self.model.head_params)

    @property
    def shared_weights(self) -> int:
        """What a rank that is first and last holds once: a tied table. Learned positions are
        beside it."""
        table = min(self.model.vocab_size * self.model.width, self.model.embed_params)
        return self._table_bytes(table) if self.model.tied else 0

    def layer_kv(self, kv_pages: int) -> int:
        """Keys and values of one layer."""
        return int(kv_pages * PAGE_TOKENS * 2 * self.model.kv_width * self.dtype.kv)

    @property
    def step_activations(self) -> int:
        return VALUE_BYTES * STEP_ROWS * self.model.width * ACTIVATION_WIDTHS

    @property
    def sample_activations(self) -> int:
        """Logits, their log-softmax and a copy, where tokens are sampled."""
        return VALUE_BYTES * 3 * STEP_SAMPLES * self.model.vocab_size

    def _table_bytes(self, params: int) -> int:
        return int(params * self.dtype.table)

    # --- a rank ----------------------------------------------------------------------------------

    def weight_bytes(self, shard: Shard) -> int:
        count = self._weights[shard.stop] - self._weights[shard.start]
        count += self.embed_weights if shard.is_first else 0
        count += self.head_weights if shard.is_last else 0
        return count - (self.shared_weights if shard.is_first and shard.is_last else 0)

    def kv_bytes(self, shard: Shard, kv_pages: int) -> int:
        return (shard.stop - shard.start) * self.layer_kv(kv_pages)

    def activation_bytes(self, shard: Shard) -> int:
        return self.step_activations + (self.sample_activations if shard.is_last else 0)

    def rank_bytes(self, shard: Shard, kv_pages: int) -> int:
        """Headroom and the process itself included."""
        allocated = (
            self.weight_bytes(shard) + self.kv_bytes(shard, kv_pages) + self.activation_bytes(shard)
        )
        return allocated + allocated // HEADROOM + PROCESS_BYTES


def pages_for(kv_tokens: int) -> int:
    """Pages that hold `kv_tokens`, rounded up."""
    return -(-kv_tokens // PAGE_TOKENS)
