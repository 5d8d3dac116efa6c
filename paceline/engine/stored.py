"""A tensor of the decoder as a checkpoint stores it: read in blocks, widened to float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from paceline.checkpoint.layout import Part
from paceline.checkpoint.layout import Tensor as Wanted
from paceline.checkpoint.tensors import TensorFiles, TensorInfo
from paceline.types.errors import CheckpointError

_DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_BLOCK_BYTES = 2 << 20
"""Of a file, read at once: several times this is what a load needs beside the weights."""


class Stored:
    """Parts go below each other; stored transposed, they go beside each other's rows."""

    def __init__(self, files: TensorFiles, wanted: Wanted) -> None:
        self._files = files
        self._wanted = wanted
        self.shape = wanted.shape

    def whole(self) -> Tensor:
        """float32, of the tensor's shape. Raises CheckpointError."""
        out = torch.empty(self.shape)
        filled = 0
        for part in self._wanted.parts:
            stop = filled + part.shape[1 if self._wanted.transposed else 0]
            place = out[filled:stop]
            self._copy(part, place.t() if self._wanted.transposed else place)
            filled = stop
        return out

    def blocks(self, multiple: int) -> Iterator[tuple[int, Tensor]]:
        """(first row, rows as float32), of a matrix from top to bottom, each block but the last
        some `multiple` of rows high. Raises CheckpointError."""
        rows, columns = self.shape
        if self._wanted.transposed:
            yield 0, self.whole()
            return
        step = max(_BLOCK_BYTES // (4 * columns) // multiple, 1) * multiple
        for start in range(0, rows, step):
            yield start, self._rows(start, min(start + step, rows))

    def _rows(self, start: int, stop: int) -> Tensor:
        out = torch.empty(stop - start, *self.shape[1:])
        first = 0
        for part in self._wanted.parts:
            low, high = max(start, first), min(stop, first + part.shape[0])
            if low < high:
                read = self._read(part, low - first, high - first)
                out[low - start : high - start] = read
            first += part.shape[0]
        return out

    def _copy(self, part: Part, out: Tensor) -> None:
        """Fill `out`, of the part's shape, from disk."""
        info = self._files.info(part.name)
        rows = info.shape[0]
        step = max(1, _BLOCK_BYTES * rows // max(info.nbytes, 1))
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            out[start:stop] = self._read(part, start, stop)

    def _read(self, part: Part, start: int, stop: int) -> Tensor:
        """Rows of a part, as they are on disk."""
        info = self._files.info(part.name)
        block = torch.from_numpy(self._files.read(info.name, start, stop)).view(_dtype(info))
        return block.view(stop - start, *info.shape[1:])


def _dtype(info: TensorInfo) -> torch.dtype:
    if info.dtype not in _DTYPES:
        raise CheckpointError(
            f"{info.path}: tensor {info.name} is {info.dtype}; weights can be {', '.join(_DTYPES)}"
        )
    return _DTYPES[info.dtype]
