"""The int4 weights that are nearest to what they stand for.

All is reckoned in integers, so that the kernels (csrc/encode.h) find the same.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from paceline.engine.int4 import PARTS, SHARING, Codes
from paceline.engine.int8 import LARGEST

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
class _Levels:
    """Of n times `SHARING` weights: step and low, integers as float64 [n, 1]."""

    step: Tensor
    low: Tensor


_Fit = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of n times `SHARING` weights: error [n, 1], codes [n, SHARING], step and low [n, 1]."""


def encode(weights: Tensor) -> Codes:
    """Of float32 [columns, depth], in int8 steps and within +-127."""
    columns, depth = weights.shape
    whole = (weights * PARTS).round_().clamp_(-LARGEST * PARTS, LARGEST * PARTS)
    blocks = torch.split(whole.view(-1, SHARING), _BLOCK // SHARING)
    fits = zip(*(_fitted(block) for block in blocks), strict=True)
    _, codes, steps, lows = (torch.cat(parts) for parts in fits)
    by_column = (columns, depth // SHARING)
    return Codes(
        codes.to(torch.uint8).view(columns, depth),
        steps.to(torch.uint8).view(by_column),
        lows.to(torch.int8).view(by_column),
    )


def _fitted(weights: Tensor) -> _Fit:
    """Float32 [n, SHARING], whole `PARTS`."""
    fits: list[_Fit] = []
    for span in _SPANS:
        levels = _first_levels(weights, span)
        for _ in range(_FITS):
            levels = _nearest_levels(weights, _codes(weights, levels))
        fits += (_fit(weights, _within(levels.step, levels.low + shift)) for shift in _SHIFTS)
    return functools.reduce(_better, fits)


def _fit(weights: Tensor, levels: _Levels) -> _Fit:
    codes = _codes(weights, levels)
    return _error(weights, levels, codes), codes, levels.step, levels.low


def _better(one: _Fit, other: _Fit) -> _Fit:
    is_better = other[0] < one[0]
    error, codes, step, low = (
        torch.where(is_better, theirs, ours) for theirs, ours in zip(other, one, strict=True)
    )
    return error, codes, step, low


def _first_levels(weights: Tensor, span: int) -> _Levels:
    least, most = weights.aminmax(dim=1, keepdim=True)
    least, most = least.double(), most.double()
    step = (((most - least) * span + 16 * _MOST_CODE) / (32 * _MOST_CODE)).floor()
    low = ((least + most - step * _MOST_CODE + (PARTS - 1) + PARTS) / (2 * PARTS)).floor()
    return _within(step, low)


def _nearest_levels(weights: Tensor, codes: Tensor) -> _Levels:
    """Of least squares. On average, levels lose (PARTS - 1) / 2 by being rounded down."""
    of_codes, of_weights = codes.sum(1, True).double(), weights.sum(1, True).double()
    spread = SHARING * codes.square().sum(1, True).double() - of_codes.square()
    both = SHARING * (codes * weights).sum(1, True).double() - of_codes * of_weights
    step = ((2 * both + spread) / (2 * spread).clamp_(min=1)).floor()
    low = of_weights - step * of_codes + (SHARING * (PARTS - 1) // 2 + SHARING * PARTS // 2)
    return _within(step, (low / (SHARING * PARTS)).floor())


def _within(step: Tensor, low: Tensor) -> _Levels:
    """No level may be above an int8 weight."""
    low = low.clamp(-LARGEST, LARGEST)
    room = ((LARGEST - low) * PARTS / _MOST_CODE).floor()
    return _Levels(torch.minimum(step, room).clamp(1, _MOST_STEP), low)


def _codes(weights: Tensor, levels: _Levels) -> Tensor:
    """The nearest ones, as float32."""
    step, low = levels.step.float(), levels.low.float()
    twice = (weights - low * PARTS).mul_(2).add_(step + (PARTS - 1)).clamp_(min=0)
    return twice.div_(2 * step).floor_().clamp_(max=_MOST_CODE)


def _error(weights: Tensor, levels: _Levels, codes: Tensor) -> Tensor:
    """Sum of squares, float64 [n, 1]."""
    step, low = levels.step.float(), levels.low.float()
    found = (codes * step).mul_(1 / PARTS).floor_().add_(low).mul_(PARTS)
    return found.sub_(weights).square_().sum(1, True, dtype=torch.float64)
