"""a * b + c with one rounding, in torch: what a fused multiply-add gives, on any CPU."""

from __future__ import annotations

import torch
from torch import Tensor

_BELOW_FLOAT32 = (1 << 29) - 1
"""Bits of a double's mantissa that a float32 does not have."""
_TIE = 1 << 28


def multiply_add(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """float32 operands, broadcast; results of normal size.

    In double the product is exact, and rounding the sum twice differs from rounding it once only
    where the first lands on a tie of the second: there it is moved to the side of its error.
    """
    product = a.double() * b.double()
    c = c.double()
    total = product + c
    ties = (total.view(torch.int64) & _BELOW_FLOAT32) == _TIE
    if ties.any():
        of_c = total - product
        error = (product - (total - of_c)) + (c - of_c)
        beside = total.nextafter(torch.where(error > 0, torch.inf, -torch.inf).double())
        total = torch.where(ties & (error != 0), beside, total)
    return total.float()
