"""A layer's operations behind one protocol: the torch reference or the C kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from paceline.checkpoint.architecture import Activation, Norm
from paceline.engine.kernels import Kernels
from paceline.engine.reference import ReferenceOps
from paceline.engine.sampling.draw import Ask


class Ops(Protocol):
    """All contiguous, and float32 where nothing else is said. A row's result has the same bits in
    any company."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x [rows, K], weight [N, K], bias [N]: [rows, N]."""

    def norm(
        self, kind: Norm, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float
    ) -> Tensor:
        """x [rows, width], weight and bias [width]: like x."""

    def activate(self, kind: Activation, gated: bool, x: Tensor) -> Tensor:
        """x [rows, width]; if gated, its first half activated, times the other half."""

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        row_pos: Tensor,
        row_table: Tensor,
        tables: Tensor,
        scale: float,
        window: int,
        softcap: float,
    ) -> Tensor:
        """See `ReferenceOps.attention`."""

    def draw(self, asks: Sequence[Ask]) -> list[int]:
        """See `sampling.draw.Draw`."""

    def finite(self, x: Tensor) -> bool:
        """Whether x [rows, width] is free of NaN and infinities."""


class KernelsWithout:
    """The C kernels where they do not handle a model's heads: attention is the reference's."""

    def __init__(self, built: Kernels) -> None:
        self.linear = built.linear
        self.norm = built.norm
        self.activate = built.activate
        self.finite = built.finite
        self.draw = built.draw
        self.attention = ReferenceOps().attention
