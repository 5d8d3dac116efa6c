"""The two operations that cost, behind one protocol, and the choice of who does them."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from paceline.engine import kernels
from paceline.engine.reference import ReferenceOps
from paceline.types.errors import EngineError

OpsChoice = Literal["auto", "reference", "c"]


class Ops(Protocol):
    """All float32 and contiguous. A row's result has the same bits in any company."""

    @property
    def name(self) -> str:
        """Says which bits to expect; part of the numerics id."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x [rows, K], weight [N, K], bias [N]: [rows, N]."""

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


class _KernelsWithout:
    """The C kernels where they do not handle a model's heads: attention is the reference's."""

    def __init__(self, built: kernels.Kernels, reference: ReferenceOps) -> None:
        self.name = f"{built.name}+{reference.name}-attention"
        self.linear = built.linear
        self.attention = reference.attention


def choose_ops(choice: OpsChoice, heads: int, kv_heads: int, head_dim: int) -> Ops:
    """ "auto" takes the C kernels where they were built and run here, else the reference.

    Raises EngineError when "c" is asked for and is not there.
    """
    built = None if choice == "reference" else kernels.load()
    if built is None and choice == "c":
        raise EngineError("the C kernels are not built here; install with a compiler, or use auto")
    if built is None:
        return ReferenceOps()
    if not built.supports(heads, kv_heads, head_dim):
        return _KernelsWithout(built, ReferenceOps())
    return built
