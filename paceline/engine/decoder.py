"""The decoder: one function of a batch for every family, driven by `ModelConfig`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from paceline.checkpoint.architecture import ModelConfig
from paceline.engine.batch import Batch
from paceline.engine.kv import KVCache
from paceline.engine.numerics import Numerics
from paceline.engine.rope import RopeTable
from paceline.engine.weights import Weights
from paceline.types.model import Shard


class Layers(Protocol):
    """What carries hidden states through a shard's layers: `LayerProgram`, `ComposedLayers`."""

    def run(self, batch: Batch, x: Tensor, on_layer: Callable[[], None]) -> Tensor: ...


class Head(Protocol):
    def logits(self, x: Tensor) -> Tensor: ...


class Decoder:
    """A shard's layers with their KV, and embedding or head where the shard has them."""

    def __init__(
        self,
        config: ModelConfig,
        shard: Shard,
        weights: Weights,
        kv: KVCache,
        numerics: Numerics,
        positions: int,
    ) -> None:
        """`positions`: how many a sequence can have."""
        layers = config.layers[shard.start : shard.stop]
        ropes = {
            rope: RopeTable(rope, config.head_dim, positions)
            for rope in {layer.rope for layer in layers}
            if rope is not None
        }
        self._weights = weights
        self._layers = numerics.layers(config, layers, weights.layers, kv, ropes)
        self._head: Head | None = None
        if weights.norm is not None and weights.head is not None:
            self._head = numerics.head(config, weights.norm, weights.head)

    def forward(self, batch: Batch, x: Tensor, on_layer: Callable[[], None]) -> Tensor:
        """Token ids int64 [rows] on the first rank, else hidden states [rows, width]; returns
        hidden states, or on the last rank logits [sampled rows, vocab]. `on_layer` is called
        after each layer, or several."""
        x = self._layers.run(batch, self._embedded(x, batch), on_layer)
        if self._head is None:
            return x
        return self._head.logits(x if len(batch.sampled) == batch.rows else x[batch.sampled])

    def _embedded(self, x: Tensor, batch: Batch) -> Tensor:
        weights = self._weights
        if weights.embed is None:
            return x
        x = weights.embed.rows(x)
        if weights.positions is not None:
            x = x + F.embedding(batch.row_pos, weights.positions)
        return x
