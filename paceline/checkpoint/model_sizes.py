"""The sizes that placement works with: of a checkpoint, or of one that need not exist, from its
config.json alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from math import gcd
from typing import Any

import msgspec

from paceline.checkpoint.architecture import ModelConfig
from paceline.checkpoint.families import parse_config
from paceline.checkpoint.layout import Layout, Tensor
from paceline.types.errors import CheckpointError
from paceline.types.model import ModelFacts, Shard

_DISK_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Of an element, by the name of its dtype in config.json."""


class _Everything:
    """A checkpoint that has whatever tensor is asked for."""

    def __contains__(self, name: object) -> bool:
        return True


def facts_of(
    config: ModelConfig, layout: Layout, *, name: str, digest: str, disk_bytes: int
) -> ModelFacts:
    return ModelFacts(
        name=name,
        family=config.family,
        digest=digest,
        disk_bytes=disk_bytes,
        layer_params=tuple(_params(layout.layer(i).values()) for i in range(len(config.layers))),
        embed_params=_params(layout.embedding().values()),
        head_params=_params(layout.head().values()),
        tied=config.tied,
        width=config.width,
        vocab_size=config.vocab_size,
        kv_width=config.kv_width,
        depth_divisor=gcd(*config.depths),
        max_context=config.max_context,
    )


def config_facts(raw: Mapping[str, Any], name: str) -> ModelFacts:
    """Of the checkpoint that a parsed config.json describes, its weights in the dtype that it
    names. Raises CheckpointError."""
    config = parse_config(raw)
    layout = Layout(config, _Everything())
    layers = len(config.layers)
    whole = layout.shard(Shard(start=0, stop=layers, layers=layers))
    digest = hashlib.sha256(msgspec.json.encode(raw, order="sorted")).hexdigest()
    return facts_of(
        config,
        layout,
        name=name,
        digest=f"config:{digest}",
        disk_bytes=_params(whole) * _element_bytes(raw),
    )


def _element_bytes(raw: Mapping[str, Any]) -> int:
    """transformers writes `torch_dtype`, and since its fifth version `dtype`; float32 if neither
    is there."""
    dtype = str(raw.get("dtype") or raw.get("torch_dtype") or "float32").removeprefix("torch.")
    if dtype not in _DISK_BYTES:
        raise CheckpointError(f"dtype {dtype!r} is not one of {', '.join(_DISK_BYTES)}")
    return _DISK_BYTES[dtype]


def _params(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.params for tensor in tensors)
