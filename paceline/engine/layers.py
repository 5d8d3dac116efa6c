"""Layers composed of single operations, each the torch reference's or a C kernel: the fallback, and
the oracle of `LayerProgram`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from paceline.checkpoint.architecture import LayerConfig, ModelConfig
from paceline.checkpoint.rope import AnyRope
from paceline.engine.batch import Batch
from paceline.engine.kv import KVCache
from paceline.engine.matrices import Matrix
from paceline.engine.ops import Ops
from paceline.engine.rope import RopeTable, rotate
from paceline.engine.weights import Affine, LayerWeights

Turns = Mapping[AnyRope, tuple[Tensor, Tensor]]
"""cos and sin of a batch's rows, by rope."""


class ComposedLayers:
    """A shard's layers with their KV."""

    def __init__(
        self,
        ops: Ops,
        config: ModelConfig,
        layers: Sequence[LayerConfig],
        weights: Sequence[LayerWeights],
        kv: KVCache,
        ropes: Mapping[AnyRope, RopeTable],
    ) -> None:
        self._ops = ops
        self._config = config
        self._layers = tuple(zip(layers, weights, strict=True))
        self._kv = kv
        self._ropes = ropes

    @torch.inference_mode()
    def run(self, batch: Batch, x: Tensor, on_layer: Callable[[], None]) -> Tensor:
        """Hidden states float32 [rows, width]: those behind the last layer. `on_layer` is called
        after each."""
        turns = {rope: table.rows(batch.row_pos) for rope, table in self._ropes.items()}
        for index, (layer, weights) in enumerate(self._layers):
            x = x + self._attention(x, index, layer, weights, batch, turns)
            x = x + self._mlp(x, weights)
            on_layer()
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
        y = weights.qkv(self._normed(x, weights.attn_norm))
        q, k, v = (
            part.reshape(batch.rows, -1, config.head_dim)
            for part in torch.split(y, [config.q_width, config.kv_width, config.kv_width], dim=1)
        )
        if weights.q_norm is not None and weights.k_norm is not None:
            q, k = self._normed(q, weights.q_norm), self._normed(k, weights.k_norm)
        if layer.rope is not None:
            q, k = rotate(q, *turns[layer.rope]), rotate(k, *turns[layer.rope])
        self._kv.write(index, batch, k, v)
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
        return weights.o(y)

    def _mlp(self, x: Tensor, weights: LayerWeights) -> Tensor:
        config = self._config
        y = weights.up(self._normed(x, weights.mlp_norm))
        return weights.down(self._ops.activate(config.activation, config.gated, y))

    def _normed(self, x: Tensor, norm: Affine) -> Tensor:
        config = self._config
        rows = x.reshape(-1, x.shape[-1])
        y = self._ops.norm(config.norm, rows, norm.weight, norm.bias, config.norm_eps)
        return y.view(x.shape)


class ComposedHead:
    """The last norm and the head."""

    def __init__(self, ops: Ops, config: ModelConfig, norm: Affine, head: Matrix) -> None:
        self._ops = ops
        self._config = config
        self._norm = norm
        self._head = head

    def logits(self, x: Tensor) -> Tensor:
        """x float32 [rows, width]: [rows, vocab]."""
        if not len(x):
            return x.new_empty(0, self._head.columns)
        norm, config = self._norm, self._config
        x = self._ops.norm(config.norm, x, norm.weight, norm.bias, config.norm_eps)
        return self._head.linear(x, None)
