"""Quantised matrices that are loaded together: one stretch of bytes, in memory as on disk."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from paceline.engine.mapped import mapped
from paceline.engine.quantised import Bits, QuantisedMatrix, packed_shape
from paceline.types.errors import EngineError

_ALIGNMENT = 64
"""Of every tensor: a cache line, and a vector."""

_HUGE_PAGE = 2 << 20
_CHUNK = 64 << 20
"""Asked of the system at once; what is not written takes no memory."""


class Image:
    """Where the matrices of some shapes [columns, depth] lie: each its packed bytes, then its
    scales."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], bits: Bits) -> None:
        self._shapes = shapes
        self._bits = bits
        self._starts: dict[str, tuple[int, int]] = {}
        self.nbytes = 0
        for name, (columns, depth) in shapes.items():
            packed = self._place(prod(packed_shape(columns, depth, bits)))
            self._starts[name] = packed, self._place(4 * columns)

    def _place(self, nbytes: int) -> int:
        start = self.nbytes
        self.nbytes += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        return start

    def matrices(self, memory: Tensor) -> dict[str, QuantisedMatrix]:
        """Those that lie in `memory`, uint8 [nbytes]: views."""
        return {name: self._matrix(memory, name) for name in self._shapes}

    def _matrix(self, memory: Tensor, name: str) -> QuantisedMatrix:
        columns, depth = self._shapes[name]
        shape = packed_shape(columns, depth, self._bits)
        packed, scales = self._starts[name]
        return QuantisedMatrix(
            memory[packed : packed + prod(shape)].view(shape),
            memory[scales : scales + 4 * columns].view(torch.float32),
            depth,
            self._bits,
        )


class Arena:
    """Memory for weights. Any thread may take."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = torch.empty(0, dtype=torch.uint8)

    def take(self, nbytes: int) -> Tensor:
        """uint8 [nbytes] of zeros, aligned to 64 bytes. Raises EngineError."""
        size = -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        with self._lock:
            if size > len(self._left):
                self._left = _mapped(max(size, _CHUNK))
            taken, self._left = self._left[:nbytes], self._left[size:]
            return taken


def _mapped(nbytes: int) -> Tensor:
    try:
        memory = mapped(nbytes + _HUGE_PAGE)
    except OSError as error:
        raise EngineError(f"no memory for {nbytes >> 20} MiB of weights: {error}") from error
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % _HUGE_PAGE
    return whole[start : start + nbytes]
