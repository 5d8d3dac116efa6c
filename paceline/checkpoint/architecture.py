"""What a decoder is made of: one table that drives it, whatever the family."""

from __future__ import annotations

from typing import Literal

import msgspec

from paceline.checkpoint.rope import AnyRope

Activation = Literal["silu", "gelu", "gelu_tanh"]
Norm = Literal["rms", "layer"]


class LayerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What may differ from layer to layer."""

    rope: AnyRope | None
    """None where positions are learned and added to the embedding."""
    query_scale: float
    """Attention scores are multiplied by it."""
    window: int = 0
    """Keys that a row sees, itself included; 0: all."""
    softcap: float = 0.0
    """Scores s become softcap * tanh(s / softcap); 0: left as they are."""


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the decoder needs to know about a model; widths in elements."""

    family: str
    layers: tuple[LayerConfig, ...]
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    vocab_size: int
    max_context: int
    tied: bool
    """The head is the embedding table."""
    norm: Norm
    norm_eps: float
    qk_norm: bool
    """Queries and keys are normed per head before rope."""
    activation: Activation
    gated: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool

    @property
    def learned_positions(self) -> bool:
        return self.layers[0].rope is None

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def depths(self) -> tuple[int, ...]:
        """Of the matrices in layers: what their rows of activations are wide."""
        return self.width, self.q_width, self.mlp_width
