"""Which tensors a decoder is made of, and under which names a checkpoint keeps them."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from functools import cache

import msgspec

from paceline.checkpoint.architecture import ModelConfig
from paceline.types.errors import CheckpointError
from paceline.types.model import Shard


class Part(msgspec.Struct, frozen=True):
    """A whole tensor of the checkpoint, in the shape it has there."""

    name: str
    shape: tuple[int, ...]


class Tensor(msgspec.Struct, frozen=True):
    """A tensor of the decoder: its parts stacked along the first dimension.

    `transposed`: the parts are stored [in, out] (GPT-2's Conv1D) and become [out, in].
    """

    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    transposed: bool = False

    @property
    def params(self) -> int:
        return math.prod(self.shape)


class Naming(msgspec.Struct, frozen=True, kw_only=True):
    """Names of one family's tensors. Values are names under `prefixes` (the first under which
    the checkpoint has its embedding); in a layer's, they follow `layer` with its index.
    """

    prefixes: tuple[str, ...]
    embed: str
    positions: str = ""
    layer: str
    inner: Mapping[str, tuple[str, ...]]
    """Our name of a layer's linear or norm to the modules it is stacked from."""
    norm: str
    conv1d: bool = False


_LLAMA = Naming(
    prefixes=("model.", ""),
    embed="embed_tokens.weight",
    layer="layers.{}.",
    inner={
        "attn_norm": ("input_layernorm",),
        "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "q_norm": ("self_attn.q_norm",),
        "k_norm": ("self_attn.k_norm",),
        "o": ("self_attn.o_proj",),
        "mlp_norm": ("post_attention_layernorm",),
        "up": ("mlp.gate_proj", "mlp.up_proj"),
        "down": ("mlp.down_proj",),
    },
    norm="norm",
)

_GPT2 = Naming(
    prefixes=("transformer.", ""),
    embed="wte.weight",
    positions="wpe.weight",
    layer="h.{}.",
    inner={
        "attn_norm": ("ln_1",),
        "qkv": ("attn.c_attn",),
        "o": ("attn.c_proj",),
        "mlp_norm": ("ln_2",),
        "up": ("mlp.c_fc",),
        "down": ("mlp.c_proj",),
    },
    norm="ln_f",
    conv1d=True,
)

_NAMINGS: Mapping[str, Naming] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gpt2": _GPT2,
}

_HEAD = "lm_head.weight"


class Layout:
    """The tensors of one model, by our names."""

    def __init__(self, config: ModelConfig, stored: Container[str]) -> None:
        """`stored`: names of the tensors that the checkpoint has."""
        self._config = config
        self._naming = _NAMINGS[config.family]
        self._prefix = _found_prefix(self._naming, stored)

    def embedding(self) -> dict[str, Tensor]:
        """ "embed" and, where positions are learned, "positions"."""
        config, naming = self._config, self._naming
        tensors = {"embed": self._whole(naming.embed, (config.vocab_size, config.width))}
        if config.learned_positions:
            shape = (config.max_context, config.width)
            tensors["positions"] = self._whole(naming.positions, shape)
        return tensors

    def layer(self, index: int) -> dict[str, Tensor]:
        """ "attn_norm.weight", "qkv.weight", "qkv.bias" and so on, as the config has them."""
        return {
            f"{name}.{kind}": self._stacked(self.base(index), name, kind)
            for name, kinds in _layer_table(self._config).items()
            for kind in kinds
        }

    def base(self, index: int) -> str:
        """What the names of a layer's tensors begin with in the checkpoint."""
        return self._prefix + self._naming.layer.format(index)

    def head(self) -> dict[str, Tensor]:
        """ "norm.weight" (and "norm.bias"), and "head", which is "embed" again when tied."""
        config = self._config
        tensors = {
            f"norm.{kind}": self._whole(f"{self._naming.norm}.{kind}", (config.width,))
            for kind in _norm_kinds(config)
        }
        shape = (config.vocab_size, config.width)
        untied = Tensor(shape, (Part(_HEAD, shape),))
        return tensors | {"head": self.embedding()["embed"] if config.tied else untied}

    def shard(self, shard: Shard) -> tuple[Tensor, ...]:
        """Every tensor that a rank holds, a tied table once."""
        tensors = [t for i in range(shard.start, shard.stop) for t in self.layer(i).values()]
        if shard.is_first:
            tensors += self.embedding().values()
        if shard.is_last:
            tensors += self.head().values()
        return tuple(dict.fromkeys(tensors))

    def _whole(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return Tensor(shape, (Part(self._prefix + name, shape),))

    def _stacked(self, base: str, name: str, kind: str) -> Tensor:
        modules = self._naming.inner[name]
        rows, columns = _shapes(self._config)[name]
        if len(modules) == 1:
            rows = (sum(rows),)
        transposed = self._naming.conv1d and kind == "weight" and bool(columns)
        tail = columns if kind == "weight" else ()
        parts = tuple(
            Part(f"{base}{module}.{kind}", (*tail, n) if transposed else (n, *tail))
            for module, n in zip(modules, rows, strict=True)
        )
        return Tensor((sum(rows), *tail), parts, transposed)


def _found_prefix(naming: Naming, stored: Container[str]) -> str:
    for prefix in naming.prefixes:
        if prefix + naming.embed in stored:
            return prefix
    expected = " or ".join(prefix + naming.embed for prefix in naming.prefixes)
    raise CheckpointError(f"the checkpoint has no tensor {expected}")


def _norm_kinds(config: ModelConfig) -> tuple[str, ...]:
    return ("weight",) if config.norm == "rms" else ("weight", "bias")


@cache
def _layer_table(config: ModelConfig) -> Mapping[str, tuple[str, ...]]:
    """Our names of a layer's linears and norms, and which of weight and bias each has."""
    norm = _norm_kinds(config)

    def linear(bias: bool) -> tuple[str, ...]:
        return ("weight", "bias") if bias else ("weight",)

    table = {"attn_norm": norm, "qkv": linear(config.qkv_bias)}
    if config.qk_norm:
        table |= {"q_norm": norm, "k_norm": norm}
    return table | {
        "o": linear(config.o_bias),
        "mlp_norm": norm,
        "up": linear(config.mlp_bias),
        "down": linear(config.mlp_bias),
    }


@cache
def _shapes(config: ModelConfig) -> Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """For each of a layer's linears and norms: rows of its parts, and columns if it is a matrix."""
    width, mlp, head_dim = config.width, config.mlp_width, config.head_dim
    return {
        "attn_norm": ((width,), ()),
        "qkv": ((config.q_width, config.kv_width, config.kv_width), (width,)),
        "q_norm": ((head_dim,), ()),
        "k_norm": ((head_dim,), ()),
        "o": ((width,), (config.q_width,)),
        "mlp_norm": ((width,), ()),
        "up": ((mlp, mlp) if config.gated else (mlp,), (width,)),
        "down": ((width,), (mlp,)),
    }
