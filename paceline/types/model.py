"""What a model is, seen from outside: its shards, and the sizes that placement works with."""

from __future__ import annotations

import msgspec

PAGE_TOKENS = 64
"""Tokens in a KV page: one number is page, attention block and unit of prefix reuse."""


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a checkpoint that one rank holds: layers [start, stop), plus the embedding on
    the first rank and the norm and head on the last.

    Tensor parallelism is not built; `tp_size` is 1 and travels so that it can be later.
    """

    start: int
    stop: int
    layers: int
    """Layers in the whole model."""
    tp_rank: int = 0
    tp_size: int = 1

    @property
    def is_first(self) -> bool:
        return self.start == 0

    @property
    def is_last(self) -> bool:
        return self.stop == self.layers


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of a checkpoint, from its config.json and safetensors headers alone.

    Parameter counts, not bytes: the dtype in memory decides the bytes.
    """

    name: str
    family: str
    digest: str
    """Content identity of the checkpoint: equal digests mean equal weights and tokenizer."""
    disk_bytes: int
    layer_params: tuple[int, ...]
    """Parameters of each layer, first to last."""
    embed_params: int
    head_params: int
    """Norm and head; a tied table counts here too, since the last rank needs a copy."""
    tied: bool
    width: int
    vocab_size: int
    kv_width: int
    """Elements of one key (equal to one value) per token and layer: kv_heads * head_dim."""
    depth_divisor: int
    """The greatest that divides the depths of all matrices in layers."""
    max_context: int
