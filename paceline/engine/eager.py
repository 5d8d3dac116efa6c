"""int8 matrices multiplied by torch: the fallback, and the oracle of the C kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from paceline.engine.fused import multiply_add
from paceline.engine.quantised import QuantisedMatrix, quantise_rows, unpack

_BLOCK_ELEMENTS = 1 << 20
"""Weights widened to float32 at once, so that they are multiplied while still in a cache."""


class EagerMatrix:
    """A `Matrix` with the bits of the kernels' `quantised_linear`.

    A group's products are integers below 2^24 and so are their sums: a float32 product of matrices
    is exact, in whatever order it adds.
    """

    def __init__(self, quantised: QuantisedMatrix) -> None:
        self._values = unpack(quantised)
        self._scales = quantised.scales
        self.columns = quantised.columns
        self.nbytes = self._values.nbytes + self._scales.nbytes

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        values, scales = quantise_rows(x)
        by_group = values.transpose(0, 1).contiguous()
        step = max(1, _BLOCK_ELEMENTS // x.shape[1])
        blocks = [
            self._product(by_group, scales, block) for block in torch.split(self._values, step)
        ]
        y = torch.cat(blocks, 1).mul_(self._scales)
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
        return self._values[ids].float().mul_(self._scales[ids, None])
