"""What is held true of tensors before C sees their addresses."""

from __future__ import annotations

import torch
from torch import Tensor

from paceline.types.errors import EngineError


def require(name: str, tensor: Tensor, dims: int, dtype: torch.dtype = torch.float32) -> None:
    if (
        tensor.dtype is not dtype
        or tensor.dim() != dims
        or not tensor.is_cpu
        or not tensor.is_contiguous()
    ):
        raise EngineError(
            f"a kernel was given {name} as {tensor.dtype} {list(tensor.shape)} on {tensor.device}"
            f"{'' if tensor.is_contiguous() else ', not contiguous'}; "
            f"it needs a contiguous {dtype} CPU tensor with {dims} dimensions"
        )


def require_that(holds: bool, rule: str, **tensors: Tensor) -> None:
    if not holds:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise EngineError(f"a kernel was given shapes that do not fit: {shapes}; {rule}")
