"""Keys and values of this rank's layers, in pages that the driver's page tables name."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paceline.engine.batch import Batch
from paceline.engine.mapped import mapped
from paceline.types.errors import EngineError
from paceline.types.model import PAGE_TOKENS


class KVCache:
    """Per layer keys [pages, kv_heads, head_dim, 64] and values [pages, kv_heads, 64, head_dim].

    A page's keys stand element by element, so that attention scores 64 keys side by side without
    ever adding across a vector. Memory is taken from the system as it is first written: where it
    has large pages, up to 2 MiB for each layer's keys and for its values from the first token on.
    """

    def __init__(
        self, layers: int, pages: int, kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> None:
        try:
            self.keys = _zeros((layers, pages, kv_heads, head_dim, PAGE_TOKENS), dtype)
            self.values = _zeros((layers, pages, kv_heads, PAGE_TOKENS, head_dim), dtype)
        except (OSError, OverflowError) as error:
            raise EngineError(f"no memory for {pages} KV pages; ask for fewer: {error}") from error

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def write(self, layer: int, batch: Batch, k: Tensor, v: Tensor) -> None:
        """k and v float32 [rows, kv_heads, head_dim], to the places of the batch's rows."""
        pages = batch.tables[batch.row_table.long(), batch.row_pos // PAGE_TOKENS].long()
        places = batch.row_pos % PAGE_TOKENS
        self.keys[layer][pages, :, :, places] = k.to(self.keys.dtype)
        self.values[layer][pages, :, places] = v.to(self.values.dtype)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that cost no memory until written; torch.zeros would write them all."""
    nbytes = math.prod(shape) * dtype.itemsize
    return torch.frombuffer(mapped(nbytes), dtype=dtype).view(shape)
