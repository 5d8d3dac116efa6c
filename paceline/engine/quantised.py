"""Matrices of int8 or int4 weights, and int8 rows of activations to multiply them by.

A row of activations has a scale for each *group* of elements along K: the largest power of two that
divides K, at most 64. One scale over the whole row is not good enough: it costs some percent of
perplexity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from paceline.engine import int4, int8
from paceline.engine.encode import encode
from paceline.engine.int8 import LARGEST, TINY_GROUP, group_of

Bits = Literal[4, 8]

PACKING = 3
"""Goes up when packed bytes or scales change, so that nobody reads older ones."""

_LARGEST = torch.tensor(float(LARGEST))
"""A tensor: a number over a tensor is the number times its reciprocal, rounded twice."""
_INVERSE_LARGEST = torch.tensor(1.0) / _LARGEST


@dataclass(frozen=True, slots=True)
class QuantisedMatrix:
    """[columns, depth]; multiplied by rows of `depth` elements."""

    packed: Tensor
    """uint8 of `packed_shape`."""
    scales: Tensor
    """float32 [columns]."""
    depth: int
    bits: Bits

    @property
    def columns(self) -> int:
        return len(self.scales)

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + self.scales.nbytes


def packed_shape(columns: int, depth: int, bits: Bits) -> tuple[int, ...]:
    if bits == 8:
        return int8.packed_shape(columns, depth)
    return int4.packed_shape(columns, depth)


def quantise(
    weights: Tensor, bits: Bits, encode: Callable[[Tensor], int4.Codes] = encode
) -> tuple[Tensor, Tensor]:
    """float32 [columns, depth]: packed, and scales [columns]. `encode`: who does, for int4."""
    if bits == 8:
        values, scales = int8.quantise(weights)
        return int8.pack(values), scales
    in_steps, scales = int8.in_steps(weights)
    return int4.pack(encode(in_steps)), scales


def unpack(packed: Tensor, columns: int, depth: int, bits: Bits) -> Tensor:
    """int8 [columns, depth] of whole strips."""
    if bits == 8:
        return int8.unpack(packed, columns, depth)
    return int4.decode(int4.unpack(packed, columns))


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [rows, depth]: int8 as float32 [rows, groups, group], and scales [rows, groups].

    A group of tiny values is zero; one with an infinity or a NaN has the scale NaN.
    """
    rows, depth = x.shape
    groups = x.view(rows, depth // group_of(depth), group_of(depth))
    largest = groups.abs().amax(2)
    usable = (largest >= TINY_GROUP) & largest.isfinite()
    scales = torch.where(usable, largest * _INVERSE_LARGEST, 0.0)
    scales = torch.where(largest.isfinite(), scales, torch.nan)
    inverse = torch.where(usable, _LARGEST / largest, 0.0)
    values = (groups * inverse[..., None]).round_()
    return torch.where(usable[..., None], values, 0.0), scales
