"""The decoder: one function of a batch for every family, driven by `ModelConfig`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from paceline.checkpoint.architecture import LayerConfig, ModelConfig
from paceline.checkpoint.rope import AnyRope
from paceline.engine.batch import Batch
from paceline.engine.elementwise import activate
from paceline.engine.kv import KVCache
from paceline.engine.ops import Ops
from paceline.engine.rope import RopeTable, rotate
from paceline.engine.weights import Affine, LayerWeights, Weights

Turns = Mapping[AnyRope, tuple[Tensor, Tensor]]
"""cos and sin of a batch's rows, by rope."""


def _rms_norm(x: Tensor, w: Affine, eps: float) -> Tensor:
    return F.rms_norm(x, w.weight.shape, w.weight, eps)


def _layer_norm(x: Tensor, w: Affine, eps: float) -> Tensor:
    return F.layer_norm(x, w.weight.shape, w.weight, w.bias, eps)


_NORMS: Mapping[str, Callable[[Tensor, Affine, float], Tensor]] = {
    "rms": _rms_norm,
    "layer": _layer_norm,
}


class Decoder:
    """A shard's layers with their KV, and embedding or head where the shard has them."""

    def __init__(
        self,
        config: ModelConfig,
        layers: tuple[LayerConfig, ...],
        weights: Weights,
        kv: KVCache,
        ops: Ops,
        positions: int,
    ) -> None:
        """`layers` are the shard's; `positions`: how many a sequence can have."""
        self._config = config
        self._layers = tuple(zip(layers, weights.layers, strict=True))
        self._weights = weights
        self._kv = kv
        self._ops = ops
        self._norm = _NORMS[config.norm]
        self._ropes = {
            rope: RopeTable(rope, config.head_dim, positions)
            for rope in {layer.rope for layer in layers}
            if rope is not None
        }

    def forward(self, batch: Batch, x: Tensor, on_layer: Callable[[], None]) -> Tensor:
        """Token ids int64 [rows] on the first rank, else hidden states [rows, width]; returns
        hidden states, or on the last rank logits [sampled rows, vocab]. `on_layer` is called
        after each layer."""
        x = self._embedded(x, batch)
        turns = {rope: table.rows(batch.row_pos) for rope, table in self._ropes.items()}
        for index, (layer, weights) in enumerate(self._layers):
            x = x + self._attention(x, index, layer, weights, batch, turns)
            x = x + self._mlp(x, weights)
            on_layer()
        return self._logits(x, batch)

    def _embedded(self, x: Tensor, batch: Batch) -> Tensor:
        weights = self._weights
        if weights.embed is None:
            return x
        x = F.embedding(x, weights.embed)
        if weights.positions is not None:
            x = x + F.embedding(batch.row_pos, weights.positions)
        return x

    def _attention(
        self,
        x: Tensor,
        index: int,
        layer: LayerConfig,
        weights: LayerWeights,
        batch: Batch,
        turns: Turns,
    ) -> Tensor:
        config = self._config
        y = self._linear(self._normed(x, weights.attn_norm), weights.qkv)
        q, k, v = (
            part.view(batch.rows, -1, config.head_dim)
            for part in torch.split(y, [config.q_width, config.kv_width, config.kv_width], dim=1)
        )
        if weights.q_norm is not None and weights.k_norm is not None:
            q, k = self._normed(q, weights.q_norm), self._normed(k, weights.k_norm)
        if layer.rope is not None:
            q, k = rotate(q, *turns[layer.rope]), rotate(k, *turns[layer.rope])
        self._kv.write(index, batch.cells, k, v)
        y = self._ops.attention(
            q.contiguous(),
            self._kv.keys[index],
            self._kv.values[index],
            batch.row_pos,
            batch.row_table,
            batch.tables,
            layer.query_scale,
            layer.window,
            layer.softcap,
        )
        return self._linear(y, weights.o)

    def _mlp(self, x: Tensor, weights: LayerWeights) -> Tensor:
        config = self._config
        y = self._linear(self._normed(x, weights.mlp_norm), weights.up)
        if not config.gated:
            return self._linear(activate(config.activation, y), weights.down)
        gate, up = y.chunk(2, dim=1)
        y = activate(config.activation, gate.contiguous()).mul_(up)
        return self._linear(y, weights.down)

    def _logits(self, x: Tensor, batch: Batch) -> Tensor:
        weights = self._weights
        if weights.norm is None or weights.head is None:
            return x
        x = self._normed(x[batch.sampled], weights.norm)
        if not len(x):
            return x.new_empty(0, len(weights.head))
        return self._linear(x, Affine(weights.head))

    def _normed(self, x: Tensor, weights: Affine) -> Tensor:
        return self._norm(x, weights, self._config.norm_eps)

    def _linear(self, x: Tensor, weights: Affine) -> Tensor:
        return self._ops.linear(x, weights.weight, weights.bias)
