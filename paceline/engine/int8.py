"""int8 weights with a scale for each column, w ~ int8 * scale, in the layout of all kernels."""

from __future__ import annotations

import torch
from torch import Tensor

STRIP = 16
"""Columns that lie side by side in a packed matrix."""

QUAD = 4
"""Consecutive elements of a column that a dot-product instruction takes at once."""

MOST_GROUP = 64
LARGEST = 127
TINY_GROUP = 2.0**-90


def group_of(depth: int) -> int:
    """Elements that share one scale of an activation of `depth` elements."""
    return min(depth & -depth, MOST_GROUP)


def packed_depth(depth: int) -> int:
    """Groups of 1 and 2 are filled up to a quad."""
    group = group_of(depth)
    return depth // group * max(group, QUAD)


def packed_shape(columns: int, depth: int) -> tuple[int, ...]:
    """[strips, quads, STRIP, QUAD]."""
    return -(-columns // STRIP), packed_depth(depth) // QUAD, STRIP, QUAD


def in_steps(weights: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [columns, depth] in units of each column's scale, within +-127; scales [columns]. A
    column with a NaN or an infinity has the scale NaN."""
    largest = weights.abs().amax(1).nan_to_num(torch.nan, torch.nan)
    scales = largest / LARGEST
    inverse = torch.where(largest >= TINY_GROUP, LARGEST / largest, 0.0)
    return (weights * inverse[:, None]).nan_to_num_(0.0), scales


def quantise(weights: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [columns, depth]: int8 of that shape within +-127, and scales [columns]."""
    values, scales = in_steps(weights)
    return values.round_().to(torch.int8), scales


def pack(values: Tensor) -> Tensor:
    """int8 [columns, depth]: uint8 of `packed_shape`."""
    columns, depth = values.shape
    group, wide = group_of(depth), packed_depth(depth)
    strips = -(-columns // STRIP)
    filled = torch.zeros(strips * STRIP, depth // group, max(group, QUAD), dtype=torch.int8)
    filled[:columns, :, :group] = values.view(columns, -1, group)
    quads = filled.view(torch.int32)
    return (
        quads.view(strips, STRIP, wide // QUAD)
        .transpose(1, 2)
        .contiguous()
        .view(torch.uint8)
        .view(strips, wide // QUAD, STRIP, QUAD)
    )


def unpack(packed: Tensor, columns: int, depth: int) -> Tensor:
    """int8 [columns, depth]."""
    quads = packed.view(torch.int32).squeeze(3).transpose(1, 2).reshape(-1).view(torch.uint8)
    group = group_of(depth)
    groups = quads.view(-1, depth // group, max(group, QUAD))[:columns]
    return groups[:, :, :group].flatten(1).view(torch.int8)
