"""Reading safetensors by byte range: headers are checked first, then only the bytes asked for.

Layout of a file: 8 bytes length (little endian), that many bytes of JSON, then the data that the
JSON's `data_offsets` point into. https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from paceline.checkpoint.partial import held
from paceline.types.errors import CheckpointDamaged, CheckpointError

T = TypeVar("T")

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

HEADER_START = 8
"""Bytes that say how long the rest of the header is."""
_MAX_HEADER_BYTES = 100 << 20
_READ_BYTES = 1 << 30

ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
"""Bytes of one element, by the format's dtype names."""


class TensorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where a tensor lies."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    """Of its first byte in the file."""
    nbytes: int

    @property
    def params(self) -> int:
        return math.prod(self.shape)


class _Entry(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


class TensorFiles:
    """The tensors of a checkpoint directory, over one or several files; a context manager. Any
    thread may read. Of a partial checkpoint only what is there is ever read."""

    def __init__(self, directory: Path) -> None:
        """Read and check every header. Raises CheckpointError, naming the file and the reason."""
        self.paths = tensor_paths(directory)
        self._held = held(directory)
        self._infos: dict[str, TensorInfo] = {}
        self._descriptors: dict[Path, int] = {}
        self._opening = threading.Lock()
        for path in self.paths:
            for info in read_header(path):
                if info.name in self._infos:
                    raise CheckpointError(f"{path}: tensor {info.name} is also in another file")
                self._infos[info.name] = info

    def __enter__(self) -> TensorFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def __iter__(self) -> Iterator[TensorInfo]:
        return iter(self._infos.values())

    def info(self, name: str) -> TensorInfo:
        """Raises CheckpointError when there is no such tensor."""
        if name not in self._infos:
            raise CheckpointError(f"{self.paths[0].parent}: the checkpoint has no tensor {name}")
        return self._infos[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Bytes of rows [start, stop) along the first dimension, as a flat uint8 array."""
        info = self.info(name)
        rows = info.shape[0] if info.shape else 1
        stop = rows if stop is None else stop
        if not 0 <= start <= stop <= rows:
            raise CheckpointError(f"{name} has {rows} rows; cannot read [{start}, {stop})")
        row_bytes = info.nbytes // max(rows, 1)
        data = np.empty((stop - start) * row_bytes, np.uint8)
        self._fill(data.data, info, info.offset + start * row_bytes)
        return data

    def _fill(self, view: memoryview, info: TensorInfo, offset: int) -> None:
        if self._held is not None and not self._held.covers(
            info.path.name, offset, offset + len(view)
        ):
            raise CheckpointError(
                f"{info.path}: tensor {info.name} is not among what this node has fetched of the "
                "checkpoint; fetch the shard again"
            )
        try:
            descriptor = self._descriptor(info.path)
            while view:
                got = os.preadv(descriptor, [view[:_READ_BYTES]], offset)
                if got == 0:
                    raise CheckpointError(f"{info.path}: ends within tensor {info.name}")
                view, offset = view[got:], offset + got
        except OSError as error:
            raise CheckpointError(f"{info.path}: cannot be read: {error.strerror}") from error

    def _descriptor(self, path: Path) -> int:
        with self._opening:
            if path not in self._descriptors:
                self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return self._descriptors[path]


def tensor_paths(directory: Path) -> tuple[Path, ...]:
    """The files that hold a checkpoint's weights: those that the index names, else
    `model.safetensors`, else every *.safetensors. Raises CheckpointError when one is missing.
    """
    index = directory / INDEX_NAME
    if index.is_file():
        names = sorted(set(_decode(index, _read(index), _Index).weight_map.values()))
        paths = [directory / name for name in names if name == Path(name).name]
        if len(paths) < max(len(names), 1):
            raise CheckpointError(f"{index}: names no files, or files of another directory")
    elif (directory / SINGLE_NAME).is_file():
        paths = [directory / SINGLE_NAME]
    else:
        paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        raise CheckpointError(f"{directory}: has no *.safetensors; other formats are not read")
    for path in paths:
        if not path.is_file():
            raise CheckpointError(f"{path}: is missing; the checkpoint is incomplete")
    return tuple(paths)


def header_bytes(start: bytes, path: Path, size: int) -> int:
    """How long the header of a file of this size is, by its first HEADER_START bytes. Raises
    CheckpointError when it can be none."""
    length = int.from_bytes(start[:HEADER_START], "little")
    if not 2 <= length <= min(size - HEADER_START, _MAX_HEADER_BYTES):
        raise CheckpointDamaged(f"{path}: truncated, or not a safetensors file")
    return HEADER_START + length


def read_header(path: Path) -> tuple[TensorInfo, ...]:
    """Tensors of one file. Raises CheckpointError if it is truncated, corrupt or no safetensors."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            base = header_bytes(file.read(HEADER_START), path, size)
            header = file.read(base - HEADER_START)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    entries = _decode(path, header, dict[str, Any])
    entries.pop("__metadata__", None)
    infos = tuple(_checked_info(path, name, entry, base) for name, entry in entries.items())
    _check_coverage(path, infos, base, size)
    return infos


def _checked_info(path: Path, name: str, raw: object, base: int) -> TensorInfo:
    try:
        entry = msgspec.convert(raw, _Entry)
    except msgspec.ValidationError as error:
        raise CheckpointDamaged(f"{path}: corrupt header of tensor {name}: {error}") from error
    begin, end = entry.data_offsets
    if entry.dtype not in ITEM_BYTES:
        raise CheckpointError(f"{path}: tensor {name} has an unknown dtype {entry.dtype!r}")
    if min(entry.shape, default=0) < 0 or begin < 0:
        raise CheckpointDamaged(f"{path}: corrupt header: tensor {name} has a negative size")
    if end - begin != math.prod(entry.shape) * ITEM_BYTES[entry.dtype]:
        raise CheckpointDamaged(f"{path}: corrupt header: size of tensor {name} is not its shape's")
    return TensorInfo(
        name=name,
        dtype=entry.dtype,
        shape=entry.shape,
        path=path,
        offset=base + begin,
        nbytes=end - begin,
    )


def _check_coverage(path: Path, infos: tuple[TensorInfo, ...], base: int, size: int) -> None:
    """Tensors cover the file's data without a hole or an overlap, so every offset is good."""
    position = base
    for info in sorted(infos, key=lambda info: (info.offset, info.nbytes)):
        if info.offset != position:
            raise CheckpointDamaged(f"{path}: corrupt header: tensor {info.name} is out of place")
        position += info.nbytes
    if position != size:
        reason = "truncated" if position > size else "corrupt"
        raise CheckpointDamaged(f"{path}: {reason}: {size} bytes, its header describes {position}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def _decode(path: Path, data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise CheckpointDamaged(f"{path}: corrupt: {error}") from error
