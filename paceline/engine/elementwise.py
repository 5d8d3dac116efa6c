"""Elementwise functions whose result at an element depends on that element alone.

Torch computes exp, silu, gelu and the like in vectors of up to 32 elements and the rest one by one
with another formula, and where "the rest" lies depends on shapes and on the number of threads. So
they are applied in place to flat blocks, too small to be shared out, that have no rest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from paceline.checkpoint.architecture import Activation

_BLOCK = 2048
"""Torch gives so many elements to one thread, whatever the function; MKL's have the smallest share.
Two threads that are the first to call one of these can meet it half prepared: 1.5e-4 off."""
_LANES = 64


def in_blocks(apply: Callable[[Tensor], object], x: Tensor) -> Tensor:
    """Apply an in-place elementwise function to a contiguous tensor, and return the tensor."""
    flat = x.view(-1)
    whole = flat.numel() // _LANES * _LANES
    for block in torch.split(flat[:whole], _BLOCK):
        apply(block)
    rest = flat[whole:]
    if rest.numel():
        padded = flat.new_zeros(_LANES)
        padded[: rest.numel()] = rest
        apply(padded)
        rest.copy_(padded[: rest.numel()])
    return x


def _gelu(approximate: str) -> Callable[[Tensor], Tensor]:
    return lambda x: x.copy_(F.gelu(x, approximate=approximate))


_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": partial(F.silu, inplace=True),
    "gelu": _gelu("none"),
    "gelu_tanh": _gelu("tanh"),
}


def activate(kind: Activation, x: Tensor) -> Tensor:
    """The activation, in place."""
    return in_blocks(_ACTIVATIONS[kind], x)


def exp(x: Tensor) -> Tensor:
    """exp, in place."""
    return in_blocks(Tensor.exp_, x)


def soft_capped(x: Tensor, cap: float) -> Tensor:
    """cap * tanh(x / cap), in place."""
    return in_blocks(Tensor.tanh_, x.div_(cap)).mul_(cap)
