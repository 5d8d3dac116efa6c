"""Rotary positions: frequencies for each scaling, and tables of cosine and sine.

Formulas are those of `transformers`, in float32 as there, so that long contexts agree too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paceline.checkpoint.rope import (
    AnyRope,
    DefaultRope,
    FactorsRope,
    LinearRope,
    Llama3Rope,
    YarnRope,
)
from paceline.engine.elementwise import in_blocks
from paceline.types.model import PAGE_TOKENS


class RopeTable:
    """cos and sin, each [positions, head_dim / 2], of positions from 0."""

    def __init__(self, rope: AnyRope, head_dim: int, positions: int) -> None:
        frequencies, amplitude = _frequencies(rope, head_dim)
        whole = -(-positions // PAGE_TOKENS) * PAGE_TOKENS
        angles = torch.arange(whole, dtype=torch.float32)[:, None] * frequencies
        self.cos = in_blocks(Tensor.cos_, angles.clone()).mul_(amplitude)
        self.sin = in_blocks(Tensor.sin_, angles).mul_(amplitude)

    def rows(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of some positions, each [rows, 1, head_dim / 2]."""
        return self.cos[positions, None], self.sin[positions, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [rows, heads, head_dim], its halves taken as the two coordinates of each pair."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def _frequencies(rope: AnyRope, head_dim: int) -> tuple[Tensor, float]:
    """Radians per position of each pair, and what cosine and sine are multiplied by."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / (rope.rope_theta**exponents)
    match rope:
        case DefaultRope():
            return frequencies, 1.0
        case LinearRope():
            return frequencies / rope.factor, 1.0
        case FactorsRope():
            return frequencies / torch.tensor(rope.factors, dtype=torch.float32), 1.0
        case Llama3Rope():
            return _llama3(rope, frequencies), 1.0
        case YarnRope():
            return _yarn(rope, frequencies, head_dim), _yarn_amplitude(rope)


def _llama3(rope: Llama3Rope, frequencies: Tensor) -> Tensor:
    context = rope.original_max_position_embeddings
    low, high = rope.low_freq_factor, rope.high_freq_factor
    wavelengths = 2 * math.pi / frequencies
    share = ((context / wavelengths - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - share) * frequencies / rope.factor + share * frequencies


def _yarn(rope: YarnRope, frequencies: Tensor, head_dim: int) -> Tensor:
    def pair_that_turns(times: float) -> float:
        context = rope.original_max_position_embeddings
        return (
            head_dim * math.log(context / (times * 2 * math.pi)) / (2 * math.log(rope.rope_theta))
        )

    low = pair_that_turns(rope.beta_fast or 32)
    high = pair_that_turns(rope.beta_slow or 1)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    pairs = torch.arange(head_dim // 2, dtype=torch.float32)
    interpolated = ((pairs - low) / (high - low)).clamp(0.0, 1.0)
    scaled = frequencies / (rope.factor or 1.0)
    return scaled * interpolated + frequencies * (1 - interpolated)


def _yarn_amplitude(rope: YarnRope) -> float:
    factor = rope.factor or 1.0

    def amplitude(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return amplitude(rope.mscale) / amplitude(rope.mscale_all_dim)
    return amplitude(1.0)
