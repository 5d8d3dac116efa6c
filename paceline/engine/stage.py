"""One rank's part of a model: load a shard, carry batches through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from paceline.checkpoint.architecture import ModelConfig
from paceline.checkpoint.facts import Checkpoint
from paceline.engine.batch import Batch, Limits, lay_out
from paceline.engine.cache import UnitCache
from paceline.engine.decoder import Decoder
from paceline.engine.kv import KVCache
from paceline.engine.numerics import Numerics, OpsChoice, choose_numerics
from paceline.engine.sampling.draw import Draw
from paceline.engine.weights import OnLayer, Weights, load_weights
from paceline.types.errors import EngineError
from paceline.types.model import PAGE_TOKENS, Shard
from paceline.types.step import Span


def _ignore(done: int, total: int) -> None:
    """For callers who do not follow the load."""


class Stage:
    """A loaded shard and its KV. One thread at a time."""

    def __init__(
        self,
        config: ModelConfig,
        shard: Shard,
        weights: Weights,
        kv_pages: int,
        numerics: Numerics,
    ) -> None:
        self._config = config
        self._shard = shard
        self._limits = Limits(kv_pages, config.max_context)
        layers = shard.stop - shard.start
        kv = KVCache(layers, kv_pages, config.kv_heads, config.head_dim, numerics.kv_dtype)
        positions = min(config.max_context, kv_pages * PAGE_TOKENS)
        self._decoder = Decoder(config, shard, weights, kv, numerics, positions)
        self.kv = kv
        self.weights = weights
        self.weight_bytes = weights.nbytes
        self.kv_bytes = kv.nbytes
        self._numerics = numerics
        self.numerics_id = numerics.id
        self.draw: Draw = numerics.ops.draw
        """For the sampler behind the last shard."""

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        shard: Shard,
        *,
        dtype: str = "auto",
        kv_pages: int,
        on_layer: OnLayer = _ignore,
        ops: OpsChoice = "auto",
    ) -> Stage:
        """Read a shard from a checkpoint directory.

        `on_layer(done, total)` follows each layer; an exception from it cancels the load. Raises
        CheckpointError, or EngineError for a dtype or kernels that are not there.
        """
        if shard.tp_size != 1:
            raise EngineError(f"a shard is whole layers: tp_size is 1, not {shard.tp_size}")
        if kv_pages < 1:
            raise EngineError(f"a stage needs at least one KV page, not {kv_pages}")
        with Checkpoint(checkpoint) as opened:
            opened.tensors(shard)
            config = opened.config
            digest = opened.digest()
            cache = UnitCache(checkpoint, digest) if digest else None
            numerics = choose_numerics(dtype, ops, config, cache)
            weights = load_weights(opened, shard, numerics.form, on_layer)
            return cls(config, shard, weights, kv_pages, numerics)

    def forward(
        self, spans: Sequence[Span], x: Tensor, on_layer: Callable[[], None] = lambda: None
    ) -> Tensor:
        """Carry one step's rows through the layers.

        x: on the first rank int64 token ids [rows], else hidden states float32 [rows, width].
        Returns hidden states [rows, width]; on the last rank logits float32
        [rows that sample, vocab], in the order of the spans: a span's last row, and with guesses
        those and the row before them. `on_layer` follows each layer, or several.

        Raises EngineError, before KV is touched, on spans or inputs that do not fit; and when the
        result has NaN or infinite values.
        """
        batch = lay_out(spans, self._limits)
        self._check_input(batch, x)
        out = self._decoder.forward(batch, x, on_layer) if batch.rows else self._nothing()
        if out.numel() and not self._numerics.ops.finite(out):
            raise EngineError(
                f"layers [{self._shard.start}, {self._shard.stop}) made NaN or infinite values; "
                "the weights or the memory of this node are damaged"
            )
        return out

    def _check_input(self, batch: Batch, x: Tensor) -> None:
        first = self._shard.is_first
        shape = [batch.rows] if first else [batch.rows, self._config.width]
        dtype = torch.int64 if first else torch.float32
        if list(x.shape) != shape or x.dtype != dtype:
            raise EngineError(
                f"the step has {batch.rows} rows and needs {dtype} {shape}, "
                f"but was given {x.dtype} {list(x.shape)}"
            )
        if first and batch.rows:
            ids = x.tolist()
            low, high = min(ids), max(ids)
            if low < 0 or high >= self._config.vocab_size:
                raise EngineError(
                    f"token ids {low}..{high} are not within a vocabulary of "
                    f"{self._config.vocab_size}"
                )

    def _nothing(self) -> Tensor:
        config = self._config
        return torch.empty(0, config.vocab_size if self._shard.is_last else config.width)
