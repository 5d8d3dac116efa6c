"""The GGUF container: metadata and tensor directory, read once and checked against the file.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The reader of the `gguf`
package trusts every count it finds (a damaged array length makes it loop without end) and is
slow on vocabularies; this one treats the file as hostile. Quantised blocks are left to `gguf`.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from paceline.types.errors import CheckpointError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_TENSORS = 1 << 20
_MAX_KEYS = 1 << 16
_MAX_DIMS = 4

_SCALARS: dict[GGUFValueType, np.dtype[Any]] = {
    GGUFValueType.UINT8: np.dtype("<u1"),
    GGUFValueType.INT8: np.dtype("<i1"),
    GGUFValueType.UINT16: np.dtype("<u2"),
    GGUFValueType.INT16: np.dtype("<i2"),
    GGUFValueType.UINT32: np.dtype("<u4"),
    GGUFValueType.INT32: np.dtype("<i4"),
    GGUFValueType.FLOAT32: np.dtype("<f4"),
    GGUFValueType.BOOL: np.dtype("?"),
    GGUFValueType.UINT64: np.dtype("<u8"),
    GGUFValueType.INT64: np.dtype("<i8"),
    GGUFValueType.FLOAT64: np.dtype("<f8"),
}


class GgufTensor(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    shape: tuple[int, ...]
    """Rows first, as numpy and safetensors count (GGUF stores the reverse)."""
    quantisation: GGMLQuantizationType
    offset: int
    """From the beginning of the file."""
    nbytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


class GgufFile:
    """An open GGUF file. Raises CheckpointError, naming file and reason, for a broken one.

    `metadata` holds Python scalars, strings and lists by GGUF key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = _mapped(path)
        try:
            self.metadata, self.tensors = _parse(_Cursor(self._bytes))
        except _Broken as broken:
            self._bytes.close()
            raise CheckpointError(f"{path}: {broken}") from None

    def raw(self, tensor: GgufTensor) -> NDArray[np.uint8]:
        """The bytes of a tensor, as they are in the file; valid while the file is open."""
        return np.frombuffer(self._bytes, np.uint8, tensor.nbytes, tensor.offset)

    def error(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {reason}")


class _Broken(Exception):
    """The file does not follow the format; the message is the reason."""


class _Cursor:
    """Reads little-endian values front to back and refuses to leave the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.size = len(data)
        self.at = 0

    def skip(self, count: int) -> int:
        """Step over `count` bytes; returns where they began."""
        start, end = self.at, self.at + count
        if end > self.size:
            raise _Broken(f"truncated: needs byte {end}, the file has {self.size}")
        self.at = end
        return start

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack_from(self.data, self.skip(layout.size))

    def u32(self) -> int:
        return int(self.unpack(_U32)[0])

    def u64(self) -> int:
        return int(self.unpack(_U64)[0])

    def array(self, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        start = self.skip(dtype.itemsize * count)
        return np.frombuffer(self.data, dtype, count, start)

    def string(self) -> str:
        length = self.u64()
        start = self.skip(length)
        try:
            return self.data[start : start + length].decode()
        except UnicodeDecodeError:
            raise _Broken(f"corrupt: the string at byte {start} is not UTF-8") from None


_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError:
        raise CheckpointError(f"{path}: the file is empty") from None


def _parse(cursor: _Cursor) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    start = cursor.skip(len(_MAGIC))
    if cursor.data[start : cursor.at] != _MAGIC:
        raise _Broken("not a GGUF file (it does not begin with GGUF)")
    version = cursor.u32()
    if version not in _VERSIONS:
        raise _Broken(f"GGUF version {version} is not supported, only {_VERSIONS}")
    tensor_count = _bounded(cursor.u64(), _MAX_TENSORS, "tensors")
    key_count = _bounded(cursor.u64(), _MAX_KEYS, "metadata keys")
    metadata = {cursor.string(): _value(cursor) for _ in range(key_count)}
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise _Broken(f"corrupt: general.alignment is {alignment!r}, not a power of two")
    described = [_tensor(cursor) for _ in range(tensor_count)]
    data_start = -(-cursor.at // alignment) * alignment
    return metadata, _placed(described, data_start, cursor.size)


def _bounded(count: int, limit: int, what: str) -> int:
    if count > limit:
        raise _Broken(f"corrupt: it claims {count} {what}")
    return count


def _value(cursor: _Cursor) -> Any:
    kind = _value_type(cursor.u32())
    if kind is not GGUFValueType.ARRAY:
        return _scalar(cursor, kind)
    kind = _value_type(cursor.u32())
    count = cursor.u64()
    if kind in _SCALARS:
        return cursor.array(_SCALARS[kind], count).tolist()
    if kind is GGUFValueType.ARRAY:
        raise _Broken("arrays of arrays are not supported")
    return [cursor.string() for _ in range(count)]


def _scalar(cursor: _Cursor, kind: GGUFValueType) -> Any:
    if kind is GGUFValueType.STRING:
        return cursor.string()
    return cursor.array(_SCALARS[kind], 1).tolist()[0]


def _value_type(code: int) -> GGUFValueType:
    try:
        return GGUFValueType(code)
    except ValueError:
        raise _Broken(f"corrupt: unknown metadata type {code}") from None


def _tensor(cursor: _Cursor) -> GgufTensor:
    """As described in the directory: `offset` still counts from the start of the data."""
    name = cursor.string()
    dims = cursor.u32()
    if not 1 <= dims <= _MAX_DIMS:
        raise _Broken(f"corrupt: tensor {name!r} has {dims} dimensions")
    shape = tuple(reversed([cursor.u64() for _ in range(dims)]))
    if 0 in shape:
        raise _Broken(f"corrupt: tensor {name!r} is empty, {shape}")
    code, offset = cursor.u32(), cursor.u64()
    try:
        quantisation = GGMLQuantizationType(code)
    except ValueError:
        raise _Broken(f"tensor {name!r} has an unknown quantisation type, {code}") from None
    block_elements, block_bytes = GGML_QUANT_SIZES[quantisation]
    if shape[-1] % block_elements:
        raise _Broken(
            f"corrupt: rows of tensor {name!r} have {shape[-1]} elements, "
            f"not a multiple of {block_elements} ({quantisation.name})"
        )
    nbytes = math.prod(shape) // block_elements * block_bytes
    return GgufTensor(
        name=name, shape=shape, quantisation=quantisation, offset=offset, nbytes=nbytes
    )


def _placed(described: list[GgufTensor], data_start: int, file_size: int) -> dict[str, GgufTensor]:
    tensors: dict[str, GgufTensor] = {}
    for tensor in described:
        if tensor.name in tensors:
            raise _Broken(f"corrupt: two tensors are called {tensor.name!r}")
        end = data_start + tensor.offset + tensor.nbytes
        if end > file_size:
            raise _Broken(
                f"truncated: tensor {tensor.name!r} ends at byte {end}, the file has {file_size}"
            )
        tensors[tensor.name] = msgspec.structs.replace(tensor, offset=data_start + tensor.offset)
    return tensors
