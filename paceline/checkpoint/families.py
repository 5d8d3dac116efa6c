"""The families: config.json of each, read into the decoder's one table.

Each family is a struct that states its config.json as `transformers` reads it, defaults
included; an option whose only permitted value is written in its type is one that the decoder
does not honour otherwise, and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from paceline.checkpoint.architecture import Activation, LayerConfig, ModelConfig
from paceline.checkpoint.rope import parse_rope
from paceline.types.errors import CheckpointError

Count = Annotated[int, msgspec.Meta(gt=0)]

_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}

_REFUSED: Mapping[str, Any] = {
    "quantization_config": None,
    "original_max_position_embeddings": None,
    "partial_rotary_factor": 1.0,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "use_mrope": False,
}
"""Options that change what a model computes, with the one value that leaves it as it is."""


class _Llama(msgspec.Struct, frozen=True, kw_only=True):
    qk_norm: ClassVar[bool] = False

    vocab_size: Count
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    hidden_act: str = "silu"
    max_position_embeddings: Count = 2048
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    def biases(self) -> tuple[bool, bool, bool]:
        """Of qkv, of the attention's output, of the MLP."""
        return self.attention_bias, self.attention_bias, self.mlp_bias

    def windows(self) -> tuple[int, ...]:
        return (0,) * self.num_hidden_layers

    def model(self, family: str, raw: Mapping[str, Any]) -> ModelConfig:
        head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        rope = parse_rope(raw, self.max_position_embeddings)
        qkv_bias, o_bias, mlp_bias = self.biases()
        return ModelConfig(
            family=family,
            layers=tuple(
                LayerConfig(rope=rope, query_scale=head_dim**-0.5, window=window)
                for window in self.windows()
            ),
            width=self.hidden_size,
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads or self.num_attention_heads,
            head_dim=head_dim,
            mlp_width=self.intermediate_size,
            vocab_size=self.vocab_size,
            max_context=self.max_position_embeddings,
            tied=self.tie_word_embeddings,
            norm="rms",
            norm_eps=self.rms_norm_eps,
            qk_norm=self.qk_norm,
            activation=_activation(self.hidden_act),
            gated=True,
            qkv_bias=qkv_bias,
            o_bias=o_bias,
            mlp_bias=mlp_bias,
        )


class _Mistral(_Llama, frozen=True, kw_only=True):
    num_key_value_heads: Count | None = 8
    max_position_embeddings: Count = 4096 * 32
    sliding_window: Count | None = 4096
    layer_types: None = None

    def biases(self) -> tuple[bool, bool, bool]:
        if self.attention_bias or self.mlp_bias:
            raise ValueError("this family has no biases, but attention_bias or mlp_bias is set")
        return False, False, False

    def windows(self) -> tuple[int, ...]:
        return (self.sliding_window or 0,) * self.num_hidden_layers


class _Qwen2(_Llama, frozen=True, kw_only=True):
    num_key_value_heads: Count | None = 32
    max_position_embeddings: Count = 32768
    attention_bias: bool = True
    use_sliding_window: bool = False
    sliding_window: Count | None = 4096
    max_window_layers: int = 28
    layer_types: tuple[Literal["full_attention", "sliding_attention"], ...] | None = None

    def biases(self) -> tuple[bool, bool, bool]:
        if not self.attention_bias or self.mlp_bias:
            raise ValueError("this family has biases on q, k and v and nowhere else")
        return True, False, False

    def windows(self) -> tuple[int, ...]:
        window = self.sliding_window if self.use_sliding_window else None
        sliding = (
            [kind == "sliding_attention" for kind in self.layer_types]
            if self.layer_types is not None
            else [window is not None and i >= self.max_window_layers for i in self._indices()]
        )
        if len(sliding) != self.num_hidden_layers:
            raise ValueError("layer_types does not name a kind for each layer")
        if any(sliding) and window is None:
            raise ValueError("layer_types has sliding_attention, but no sliding window is in use")
        return tuple(window or 0 if slides else 0 for slides in sliding)

    def _indices(self) -> range:
        return range(self.num_hidden_layers)


class _Qwen3(_Qwen2, frozen=True, kw_only=True):
    qk_norm: ClassVar[bool] = True

    head_dim: Count | None = 128
    attention_bias: bool = False

    def biases(self) -> tuple[bool, bool, bool]:
        if self.mlp_bias:
            raise ValueError("this family has no biases in the MLP, but mlp_bias is set")
        return self.attention_bias, self.attention_bias, False


class _Gpt2(msgspec.Struct, frozen=True, kw_only=True):
    vocab_size: Count
    n_embd: Count
    n_layer: Count
    n_head: Count
    n_positions: Count = 1024
    n_inner: Count | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False

    def model(self, family: str, raw: Mapping[str, Any]) -> ModelConfig:
        if self.n_embd % self.n_head:
            raise ValueError("n_embd is not a multiple of n_head")
        return ModelConfig(
            family=family,
            layers=tuple(
                LayerConfig(rope=None, query_scale=self._query_scale(i))
                for i in range(self.n_layer)
            ),
            width=self.n_embd,
            heads=self.n_head,
            kv_heads=self.n_head,
            head_dim=self.n_embd // self.n_head,
            mlp_width=self.n_inner or 4 * self.n_embd,
            vocab_size=self.vocab_size,
            max_context=self.n_positions,
            tied=self.tie_word_embeddings,
            norm="layer",
            norm_eps=self.layer_norm_epsilon,
            qk_norm=False,
            activation=_activation(self.activation_function),
            gated=False,
            qkv_bias=True,
            o_bias=True,
            mlp_bias=True,
        )

    def _query_scale(self, layer: int) -> float:
        scale = (self.n_embd // self.n_head) ** -0.5 if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale


FAMILIES: Mapping[str, type[_Llama] | type[_Gpt2]] = {
    "llama": _Llama,
    "mistral": _Mistral,
    "qwen2": _Qwen2,
    "qwen3": _Qwen3,
    "gpt2": _Gpt2,
}
"""By `model_type` of config.json."""


def parse_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Read a parsed config.json. Raises CheckpointError on an unknown family, a missing or
    mistyped value, or an option that the decoder does not honour.
    """
    name = raw.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise CheckpointError(
            f"model_type {name!r} is not supported; supported are {', '.join(FAMILIES)}"
        )
    for option, neutral in _REFUSED.items():
        if raw.get(option) not in (None, neutral):
            raise CheckpointError(f"config.json sets {option}, which is not supported")
    try:
        config = msgspec.convert(raw, FAMILIES[name]).model(name, raw)
        _check_heads(config)
    except ValueError as error:  # msgspec.ValidationError is one
        raise CheckpointError(f"config.json of family {name}: {error}") from error
    return config


def _activation(name: str) -> Activation:
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation {name!r} is not one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _check_heads(config: ModelConfig) -> None:
    if config.heads % config.kv_heads:
        raise ValueError(
            f"{config.heads} attention heads do not divide into {config.kv_heads} KV heads"
        )
    if config.learned_positions:
        return
    if config.head_dim % 2:
        raise ValueError(f"rope needs an even head_dim, not {config.head_dim}")
    for layer in config.layers:
        factors = getattr(layer.rope, "factors", None)
        if factors is not None and len(factors) != config.head_dim // 2:
            raise ValueError(f"rope has {len(factors)} factors for {config.head_dim // 2} pairs")
