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

from paceline.engine.int8 import LARGEST, QUAD, STRIP

SHARING = 32
"""Neighbours with one step and one low."""

GROUP = 64
"""Depth of what lies together in memory, which a matrix is a multiple of."""

_LINE = STRIP * QUAD
_LINES = 1 + GROUP // QUAD // 2
"""Of a group: steps and lows of its halves, and then codes of 2 quads each (see csrc/int4.h)."""

PARTS = 16
"""Steps, and the weights they are fitted to, are in so many parts of an int8 step."""

_MOST_CODE = 15
_MOST_STEP = 255

_SPANS = (32, 29)
"""What the codes reach over at first, in 32nds of the range: to leave its ends out may pay."""

_FITS = 2
"""How often step and low are fitted to the codes, and the codes to them."""

_SHIFTS = (0, 1, -1)
"""Of low, tried in the end."""

_BLOCK = 1 << 17
"""Weights fitted at once, so that what a fit makes stays in a cache."""


@dataclass(frozen=True, slots=True)
class Codes:
    """Of [columns, depth] weights."""

    codes: Tensor
    """uint8 [columns, depth], below 16."""
    steps: Tensor
    """uint8 [columns, depth / SHARING]."""
    lows: Tensor
    """int8 of that shape."""


def encode(weights: Tensor) -> Codes:
    """Those nearest to float32 [columns, depth], which are in int8 steps and within +-127. All is
    reckoned in integers, so that the kernels (csrc/encode.h) find the same."""
    columns, depth = weights.shape
    shared = torch.split(weights.reshape(-1, SHARING), _BLOCK // SHARING)
    fitted = [_fitted(_whole(block)) for block in shared]
    codes, steps, lows = (torch.cat(parts) for parts in zip(*fitted, strict=True))
    by_column = (columns, depth // SHARING)
    return Codes(codes.view(columns, depth), steps.view(by_column), lows.view(by_column))


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


@dataclass(frozen=True, slots=True)
class _Line:
    """Of n times `SHARING` weights, integers as float64 [n, 1]."""

    step: Tensor
    low: Tensor


def _whole(weights: Tensor) -> Tensor:
    return (weights * PARTS).round_().clamp_(-LARGEST * PARTS, LARGEST * PARTS)


def _fitted(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whole float32 [n, SHARING], in `PARTS`: codes uint8 [n, SHARING], steps uint8 [n], lows int8
    [n]."""
    best: list[Tensor] = []
    for span in _SPANS:
        line = _first_line(weights, span)
        for _ in range(_FITS):
            line = _nearest_line(weights, _codes(weights, line))
        for shift in _SHIFTS:
            shifted = _within(line.step, line.low + shift)
            codes = _codes(weights, shifted)
            found = [_error(weights, shifted, codes), codes, shifted.step, shifted.low]
            better = found[0] < best[0] if best else None
            best = (
                found
                if better is None
                else [
                    torch.where(better, theirs, ours)
                    for theirs, ours in zip(found, best, strict=True)
                ]
            )
    _, codes, steps, lows = best
    return codes.to(torch.uint8), steps[:, 0].to(torch.uint8), lows[:, 0].to(torch.int8)


def _first_line(weights: Tensor, span: int) -> _Line:
    least, most = weights.aminmax(dim=1, keepdim=True)
    least, most = least.double(), most.double()
    step = (((most - least) * span + 16 * _MOST_CODE) / (32 * _MOST_CODE)).floor()
    low = ((least + most - step * _MOST_CODE + (PARTS - 1) + PARTS) / (2 * PARTS)).floor()
    return _within(step, low)


def _nearest_line(weights: Tensor, codes: Tensor) -> _Line:
    """Of least squares. On average, levels lose (PARTS - 1) / 2 by being rounded down."""
    of_codes, of_weights = codes.sum(1, True).double(), weights.sum(1, True).double()
    spread = SHARING * codes.square().sum(1, True).double() - of_codes.square()
    both = SHARING * (codes * weights).sum(1, True).double() - of_codes * of_weights
    step = ((2 * both + spread) / (2 * spread).clamp_(min=1)).floor()
    low = of_weights - step * of_codes + (SHARING * (PARTS - 1) // 2 + SHARING * PARTS // 2)
    return _within(step, (low / (SHARING * PARTS)).floor())


def _within(step: Tensor, low: Tensor) -> _Line:
    """No level may be above an int8 weight."""
    low = low.clamp(-LARGEST, LARGEST)
    room = ((LARGEST - low) * PARTS / _MOST_CODE).floor()
    return _Line(torch.minimum(step, room).clamp(1, _MOST_STEP), low)


def _codes(weights: Tensor, line: _Line) -> Tensor:
    """The nearest ones, as float32."""
    step, low = line.step.float(), line.low.float()
    twice = (weights - low * PARTS).mul_(2).add_(step + (PARTS - 1)).clamp_(min=0)
    return twice.div_(2 * step).floor_().clamp_(max=_MOST_CODE)


def _error(weights: Tensor, line: _Line, codes: Tensor) -> Tensor:
    """Sum of squares, float64 [n, 1]."""
    step, low = line.step.float(), line.low.float()
    levels = (codes * step).mul_(1 / PARTS).floor_().add_(low).mul_(PARTS)
    return levels.sub_(weights).square_().sum(1, True, dtype=torch.float64)
