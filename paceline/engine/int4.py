"""int4 weights: int8 ones, of which neighbours are among 16 that are about evenly spaced.

Each of 32 neighbours along the depth is `low + (step * code >> 4)`: a code of 4 bits of its own,
one step and one low for them all. So every kernel that multiplies int8 multiplies int4 too, with
the same bits, whether it unpacks them before or while it goes; and a source that is evenly spaced
by itself, as GGUF's Q4_0, Q4_1 and Q4_K are, loses hardly more than in int8.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paceline.engine.int8 import QUAD, STRIP

SHARING = 32
"""Neighbours with one step and one low."""

GROUP = 64
"""Depth of what lies together in memory, which a matrix is a multiple of."""

_LINE = STRIP * QUAD
_LINES = 1 + GROUP // QUAD // 2
"""Of a group: steps and lows of its halves, and then codes of 2 quads each (see csrc/int4.h)."""

PARTS = 16
"""A step is in so many parts of an int8 step."""


@dataclass(frozen=True, slots=True)
class Codes:
    """Of [columns, depth] weights."""

    codes: Tensor
    """uint8 [columns, depth], below 16."""
    steps: Tensor
    """uint8 [columns, depth / SHARING]."""
    lows: Tensor
    """int8 of that shape."""


def decode(codes: Codes) -> Tensor:
    """int8 [columns, depth]."""
    columns, depth = codes.codes.shape
    wide = codes.codes.reshape(columns, -1, SHARING).int()
    above = codes.steps.int()[..., None] * wide // PARTS
    return (codes.lows.int()[..., None] + above).to(torch.int8).reshape(columns, depth)


def packed_shape(columns: int, depth: int) -> tuple[int, ...]:
    """[strips, groups, bytes]."""
    return -(-columns // STRIP), depth // GROUP, _LINES * _LINE


def pack(codes: Codes) -> Tensor:
    """uint8 of `packed_shape`; codes have whole groups."""
    columns, depth = codes.codes.shape
    strips, groups, _ = packed_shape(columns, depth)
    packed = torch.empty(strips, groups, _LINES, _LINE, dtype=torch.uint8)
    halves = (columns, groups, 2)
    steps, lows = codes.steps.view(halves), codes.lows.view(torch.uint8).view(halves)
    shared = _filled(torch.stack((steps, lows), 3)).permute(0, 2, 3, 4, 1)
    packed[:, :, 0] = shared.reshape(strips, groups, _LINE)
    quads = _filled(codes.codes.view(columns, groups, _LINES - 1, 2, QUAD))
    first, second = quads.permute(4, 0, 2, 3, 1, 5)
    both = (first | second << 4).reshape(strips, groups, _LINES - 1, _LINE)
    packed[:, :, 1:] = _exchanged(both)
    return packed.view(strips, groups, -1)


def unpack(packed: Tensor, columns: int) -> Codes:
    """The first `columns` of whole strips."""
    strips, groups, _ = packed.shape
    lines = packed.view(strips, groups, _LINES, _LINE)
    shared = lines[:, :, 0].view(strips, groups, 2, 2, STRIP).permute(3, 0, 4, 1, 2)
    steps, lows = shared.reshape(2, strips * STRIP, groups * 2)[:, :columns]
    both = _exchanged(lines[:, :, 1:])
    quads = torch.stack((both & 15, both >> 4), 3).view(strips, groups, _LINES - 1, 2, STRIP, QUAD)
    codes = quads.permute(0, 4, 1, 2, 3, 5).reshape(strips * STRIP, groups * GROUP)[:columns]
    return Codes(codes, steps, lows.view(torch.int8))


def _exchanged(lines: Tensor) -> Tensor:
    """Each two neighbours of the last dimension in each other's place."""
    return lines.reshape(*lines.shape[:-1], -1, 2).flip(-1).flatten(-2)


def _filled(by_column: Tensor) -> Tensor:
    """[columns, ...]: [strips, STRIP, ...], with zeros behind the last column."""
    columns = len(by_column)
    filled = by_column.new_zeros(-(-columns // STRIP) * STRIP, *by_column.shape[1:])
    filled[:columns] = by_column
    return filled.view(-1, STRIP, *by_column.shape[1:])
