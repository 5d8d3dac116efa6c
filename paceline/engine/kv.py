"""Keys and values of this rank's layers, in pages that the driver's page tables name."""

from __future__ import annotations

import math
import mmap

import torch
from torch import Tensor

from paceline.types.errors import EngineError
from paceline.types.model import PAGE_TOKENS


class KVCache:
    """Per layer K and V, each float32 [pages, kv_heads, 64, head_dim].

    Memory is taken from the system page by page as it is first written.
    """

    def __init__(self, layers: int, pages: int, kv_heads: int, head_dim: int) -> None:
        shape = (layers, pages, kv_heads, PAGE_TOKENS, head_dim)
        try:
            self.keys = _zeros(shape)
            self.values = _zeros(shape)
        except (OSError, OverflowError) as error:
            raise EngineError(f"no memory for {pages} KV pages; ask for fewer: {error}") from error

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def write(self, layer: int, cells: Tensor, k: Tensor, v: Tensor) -> None:
        """k and v [rows, kv_heads, head_dim] into cells int64 [rows * kv_heads], each an index
        into the layer's [pages * kv_heads * 64]."""
        head_dim = k.shape[-1]
        for cache, rows in ((self.keys, k), (self.values, v)):
            cache[layer].view(-1, head_dim).index_copy_(0, cells, rows.reshape(-1, head_dim))


def _zeros(shape: tuple[int, ...]) -> Tensor:
    """Zeros that cost no memory until written; torch.zeros would write them all."""
    nbytes = math.prod(shape) * torch.float32.itemsize
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)
