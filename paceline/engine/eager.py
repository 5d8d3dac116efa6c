"""Quantised matrices multiplied by torch: the fallback, and the oracle of the C kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from paceline.engine.fused import multiply_add
from paceline.engine.int8 import STRIP
from paceline.engine.quantised import QuantisedMatrix, quantise_rows, unpack

_BLOCK_ELEMENTS = 1 << 20
"""Weights widened to float32 at once, so that they are multiplied while still in a cache."""


class EagerMatrix:
    """A `Matrix` with the bits of the kernels' `quantised_linear`.

    A group's products are integers below 2^24 and so are their sums: a float32 product of matrices
    is exact, in whatever order it adds.
    """

    def __init__(self, quantised: QuantisedMatrix) -> None:
        self._quantised = quantised
        self._step = max(1, _BLOCK_ELEMENTS // (quantised.depth * STRIP)) * STRIP
        self.columns = quantised.columns
        self.nbytes = quantised.nbytes

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        values, scales = quantise_rows(x)
        by_group = values.transpose(0, 1).contiguous()
        blocks = [
            self._product(by_group, scales, self._values(first))
            for first in range(0, self.columns, self._step)
        ]
        y = torch.cat(blocks, 1).mul_(self._quantised.scales)
        return y if bias is None else y.add_(bias)

    def _product(self, by_group: Tensor, scales: Tensor, weights: Tensor) -> Tensor:
        """by_group [groups, rows, group], scales [rows, groups], weights [columns, depth]."""
        groups, rows, group = by_group.shape
        total = torch.zeros(rows, len(weights))
        wide = weights.float().view(-1, groups, group).permute(1, 2, 0)
        for index, sums in enumerate(torch.bmm(by_group, wide)):
            total = multiply_add(sums, scales[:, index, None], total)
        return total

    def rows(self, ids: Tensor) -> Tensor:
        strips, within = ids // STRIP, ids % STRIP
        q = self._quantised
        by_strip = unpack(q.packed[strips], len(ids) * STRIP, q.depth, q.bits)
        values = by_strip.view(len(ids), STRIP, q.depth)[torch.arange(len(ids)), within]
        return values.float().mul_(q.scales[ids, None])

    def _values(self, first: int) -> Tensor:
        """int8 [columns, depth] of the step's strips."""
        q = self._quantised
        packed = q.packed[first // STRIP : (first + self._step) // STRIP]
        return unpack(packed, min(self._step, q.columns - first), q.depth, q.bits)
