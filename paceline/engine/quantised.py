"""int8 matrices, in the one layout that every kernel reads, and int8 rows of activations.

A matrix has a scale per output column: w ~ int8 * scale. A row of activations has one per *group*
of elements along K: the largest power of two that divides K, at most 64. One scale over the whole
row is not good enough: it costs some percent of perplexity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STRIP = 16
"""Columns that lie side by side in a packed matrix."""

QUAD = 4
"""Consecutive elements of a column that a dot-product instruction takes at once."""

WEIGHT_ZERO = 128
"""A packed byte is the weight plus this: the instructions want one operand without a sign."""

MOST_GROUP = 64
PACKING = 1
"""Goes up when packed bytes or scales change, so that nobody reads older ones."""

_LARGEST = 127.0
_TINY_GROUP = 2.0**-90
_INVERSE_LARGEST = torch.tensor(1.0) / torch.tensor(_LARGEST)


def group_of(depth: int) -> int:
    """Elements that share one scale of an activation of `depth` elements."""
    return min(depth & -depth, MOST_GROUP)


def packed_depth(depth: int) -> int:
    """Groups of 1 and 2 are filled up to a quad."""
    group = group_of(depth)
    return depth // group * max(group, QUAD)


@dataclass(frozen=True, slots=True)
class QuantisedMatrix:
    """[columns, depth]; multiplied by rows of `depth` elements."""

    packed: Tensor
    """uint8 [strips, packed_depth / QUAD, STRIP, QUAD]."""
    scales: Tensor
    """float32 [columns]."""
    depth: int

    @property
    def columns(self) -> int:
        return len(self.scales)

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + self.scales.nbytes


def quantise(weights: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [columns, depth]: int8 of that shape within +-127, and scales [columns]."""
    largest = weights.abs().amax(1).nan_to_num(torch.nan, torch.nan)
    scales = largest / _LARGEST
    inverse = torch.where(largest >= _TINY_GROUP, _LARGEST / largest, 0.0)
    values = (weights * inverse[:, None]).round_()
    return values.nan_to_num_(0.0).to(torch.int8), scales


def pack(values: Tensor) -> Tensor:
    """int8 [columns, depth] in the layout of `QuantisedMatrix.packed`."""
    columns, depth = values.shape
    group, wide = group_of(depth), packed_depth(depth)
    strips = -(-columns // STRIP)
    filled = torch.zeros(strips * STRIP, depth // group, max(group, QUAD), dtype=torch.int8)
    filled[:columns, :, :group] = values.view(columns, -1, group)
    quads = filled.view(torch.uint8).bitwise_xor_(WEIGHT_ZERO).view(torch.int32)
    return (
        quads.view(strips, STRIP, wide // QUAD)
        .transpose(1, 2)
        .contiguous()
        .view(torch.uint8)
        .view(strips, wide // QUAD, STRIP, QUAD)
    )


def unpack(matrix: QuantisedMatrix) -> Tensor:
    """int8 [columns, depth]."""
    by_column = matrix.packed.transpose(1, 2).flatten(2).flatten(0, 1)[: matrix.columns]
    return (_without_filling(by_column, matrix.depth) ^ WEIGHT_ZERO).view(torch.int8)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [rows, depth]: int8 as float32 [rows, groups, group], and scales [rows, groups].

    A group of tiny values is zero; one with an infinity or a NaN has the scale NaN.
    """
    rows, depth = x.shape
    groups = x.view(rows, depth // group_of(depth), group_of(depth))
    largest = groups.abs().amax(2)
    usable = (largest >= _TINY_GROUP) & largest.isfinite()
    scales = torch.where(usable, largest * _INVERSE_LARGEST, 0.0)
    scales = torch.where(largest.isfinite(), scales, torch.nan)
    inverse = torch.where(usable, _LARGEST / largest, 0.0)
    values = (groups * inverse[..., None]).round_()
    return torch.where(usable[..., None], values, 0.0), scales


def _without_filling(packed: Tensor, depth: int) -> Tensor:
    """[n, packed_depth]: [n, depth]."""
    group = group_of(depth)
    groups = packed.reshape(len(packed), depth // group, max(group, QUAD))
    return groups[:, :, :group].flatten(1)
