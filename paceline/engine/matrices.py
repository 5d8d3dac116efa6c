"""A linear's matrix: what all forms can do, and those that torch has not quantised (`eager`)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from paceline.engine.kernels import Kernels
from paceline.engine.kernels.calls import quantised_matrix
from paceline.engine.quantised import QuantisedMatrix


class Matrix(Protocol):
    """[columns, depth]. A result's row has the same bits in any company."""

    @property
    def columns(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x float32 [rows, depth], bias [columns]: [rows, columns]."""

    def rows(self, ids: Tensor) -> Tensor:
        """The matrix as a table: float32 [n, depth] for ids int64 [n]."""


class FloatLinear(Protocol):
    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor: ...


class FloatMatrix:
    """float32."""

    def __init__(self, weight: Tensor, linear: FloatLinear) -> None:
        self.weight = weight
        self._linear = linear
        self.columns = len(weight)
        self.nbytes = weight.nbytes

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return self._linear(x, self.weight, bias)

    def rows(self, ids: Tensor) -> Tensor:
        return torch.nn.functional.embedding(ids, self.weight)


class PackedMatrix:
    """int8 or int4, multiplied by the C kernels."""

    def __init__(self, quantised: QuantisedMatrix, kernels: Kernels) -> None:
        self.quantised = quantised
        self._kernels = kernels
        self._in_c = quantised_matrix(quantised, None)
        self.columns = quantised.columns
        self.nbytes = quantised.nbytes

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return self._kernels.quantised_linear(x, self.quantised, bias)

    def rows(self, ids: Tensor) -> Tensor:
        return self._kernels.table_of(self._in_c, self.quantised.depth, ids)
