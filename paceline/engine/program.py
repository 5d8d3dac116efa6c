"""Layers as the C library runs them: many in one call, from structs built once at load."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from paceline.checkpoint.architecture import LayerConfig, ModelConfig
from paceline.checkpoint.rope import AnyRope
from paceline.engine.batch import Batch
from paceline.engine.kernels import Kernels, abi
from paceline.engine.kernels.calls import norm_weights, quantised_matrix
from paceline.engine.kv import KVCache
from paceline.engine.matrices import PackedMatrix
from paceline.engine.rope import RopeTable
from paceline.engine.weights import Affine, LayerWeights, Linear

CALL_PRODUCTS = 1 << 30
"""Multiplications by weights in one call, unless a single layer is more: tens of milliseconds, in
which nobody is told of progress. Between calls Python finds its own memory out of the cache."""


class LayerProgram:
    """A shard's quantised layers over a float16 cache. Every bit is the same on every instruction
    set, and a row's are its own."""

    def __init__(
        self,
        kernels: Kernels,
        config: ModelConfig,
        layers: Sequence[LayerConfig],
        weights: Sequence[LayerWeights],
        kv: KVCache,
        ropes: Mapping[AnyRope, RopeTable],
    ) -> None:
        self._kernels = kernels
        self._shape = abi.LayerShape(
            config.width,
            config.heads,
            config.kv_heads,
            config.head_dim,
            abi.MlpMiddle(config.mlp_width, abi.ACTIVATIONS[config.activation], config.gated),
        )
        self._pages = kv.keys.shape[1]
        self._layers = (abi.LayerWeights * len(layers))(
            *(
                _layer(config, layer, layer_weights, kv, index, ropes)
                for index, (layer, layer_weights) in enumerate(zip(layers, weights, strict=True))
            )
        )
        self._layer_products = max((_products(one) for one in self._layers), default=1)
        self._kept = (weights, kv, ropes)
        """What the structs point into."""

    def run(self, batch: Batch, x: Tensor, on_layer: Callable[[], None]) -> Tensor:
        """Hidden states float32 [rows, width]: those behind the last layer. `on_layer` is called
        after each call to C, which does some at once."""
        x = _copy(x)
        step = abi.StepRows(
            *(a.buffer_info()[0] for a in (batch.positions, batch.table_of_row, batch.page_ids)),
            batch.rows,
            self._pages,
            *batch.table_shape,
        )
        shape, rows = ctypes.addressof(self._shape), ctypes.addressof(step)
        layers, layer_bytes = ctypes.addressof(self._layers), ctypes.sizeof(abi.LayerWeights)
        per_call = max(CALL_PRODUCTS // (self._layer_products * max(batch.rows, 1)), 1)
        for start in range(0, len(self._layers), per_call):
            count = min(per_call, len(self._layers) - start)
            first = layers + start * layer_bytes
            self._kernels.call_on_rows(
                "paceline_layers", step, shape, first, count, rows, x.data_ptr()
            )
            on_layer()
        return x


class HeadProgram:
    """The last norm and the int8 head."""

    def __init__(self, kernels: Kernels, config: ModelConfig, norm: Affine, head: PackedMatrix):
        self._kernels = kernels
        self._width = config.width
        self._columns = head.columns
        self._head = abi.HeadWeights(_norm(config, norm), quantised_matrix(head.quantised, None))
        self._kept = (norm, head)

    def logits(self, x: Tensor) -> Tensor:
        """x float32 [rows, width]: [rows, vocab]."""
        x = x.contiguous()
        logits = torch.empty(len(x), self._columns)
        self._kernels.call(
            "paceline_head",
            self._width,
            ctypes.addressof(self._head),
            x.data_ptr(),
            len(x),
            logits.data_ptr(),
        )
        return logits


def _copy(x: Tensor) -> Tensor:
    """Torch would share a large copy out to threads of its own, which then spin beside ours."""
    x = x.contiguous()
    copy = torch.empty_like(x)
    ctypes.memmove(copy.data_ptr(), x.data_ptr(), x.nbytes)
    return copy


def _layer(
    config: ModelConfig,
    layer: LayerConfig,
    weights: LayerWeights,
    kv: KVCache,
    index: int,
    ropes: Mapping[AnyRope, RopeTable],
) -> abi.LayerWeights:
    rope = None if layer.rope is None else ropes[layer.rope]
    return abi.LayerWeights(
        _norm(config, weights.attn_norm),
        _norm(config, weights.mlp_norm),
        _norm(config, weights.q_norm),
        _norm(config, weights.k_norm),
        *(_matrix(linear) for linear in (weights.qkv, weights.o, weights.up, weights.down)),
        rope.cos.data_ptr() if rope else None,
        rope.sin.data_ptr() if rope else None,
        kv.keys[index].data_ptr(),
        kv.values[index].data_ptr(),
        layer.window,
        layer.query_scale,
        layer.softcap,
    )


def _products(layer: abi.LayerWeights) -> int:
    """Multiplications for one row."""
    matrices = (layer.qkv, layer.o, layer.up, layer.down)
    return sum(matrix.columns * matrix.depth for matrix in matrices)


def _norm(config: ModelConfig, norm: Affine | None) -> abi.NormWeights:
    if norm is None:
        return abi.NormWeights()
    return norm_weights(config.norm, norm.weight, norm.bias, config.norm_eps)


def _matrix(linear: Linear) -> abi.Matrix:
    assert isinstance(linear.matrix, PackedMatrix)
    return quantised_matrix(linear.matrix.quantised, linear.bias)
