"""What travels on a link: a typed body, and the bytes of one tensor where there is one.

A frame is one or two parts. The first is a msgpack array (header and body) followed by four bytes,
the CRC-32 of that array and of the second part; the second is the tensor, row-major. The array
starts with the protocol version in every version.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgspec

from paceline.transport.errors import UNREADABLE, ChecksumMismatch, FrameDamaged, ProtocolMismatch
from paceline.types.ids import Epoch
from paceline.types.step import Sampled, Step

DATA_PROTOCOL = 2
CHECKSUM_BYTES = 4
MAX_DIMENSIONS = 4

ITEM_BYTES = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int8": 1,
    "int32": 4,
    "int64": 8,
}


class Kind(IntEnum):
    HELLO = 0
    BEAT = 1
    STEP = 2
    SAMPLED = 3


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """First words of both ends, repeated until each knows that the other has heard it."""

    rank: int
    heard: bool
    """The sender has had a hello of the receiver's."""
    established: bool
    """The sender also knows that the receiver has heard it: no answer is needed."""


class Beat(msgspec.Struct, frozen=True, array_like=True):
    """The sender lives; sent where nothing else was."""


Body = Hello | Beat | Step | Sampled

BODIES: dict[Kind, type[Body]] = {
    Kind.HELLO: Hello,
    Kind.BEAT: Beat,
    Kind.STEP: Step,
    Kind.SAMPLED: Sampled,
}
_KINDS = {body: kind for kind, body in BODIES.items()}

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Tensor:
    """A dense row-major array. `data` may be any contiguous buffer of exactly its size; on the
    receiving side it is a read-only view into the message."""

    dtype: str
    shape: tuple[int, ...]
    data: Buffer


@dataclass(frozen=True, slots=True)
class Frame:
    epoch: Epoch
    sequence: int
    """1, 2, 3, … per link and direction; 0 for hellos, which may be repeated."""
    body: Body
    tensor: Tensor | None = None

    @property
    def kind(self) -> Kind:
        return _KINDS[type(self.body)]


class _Version(msgspec.Struct, array_like=True):
    protocol: int


class _Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    protocol: int
    epoch: Epoch
    kind: Kind
    sequence: int
    dtype: str | None
    shape: tuple[int, ...]
    body: msgspec.Raw


_encoder = msgspec.msgpack.Encoder()
_version = msgspec.msgpack.Decoder(_Version)
_head = msgspec.msgpack.Decoder(_Head)
_bodies: dict[Kind, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(body) for kind, body in BODIES.items()
}


def encode(frame: Frame) -> list[bytes | memoryview]:
    """One or two parts; the second is a view of the tensor's own memory, not a copy.

    A step's token ids stay behind: only the first rank reads them, and it is the driver.
    Raises FrameDamaged if the tensor's bytes are not those of its dtype and shape.
    """
    body = frame.body
    if isinstance(body, Step) and body.token_ids:
        body = msgspec.structs.replace(body, token_ids=())
    tensor = frame.tensor
    head = _Head(
        protocol=DATA_PROTOCOL,
        epoch=frame.epoch,
        kind=frame.kind,
        sequence=frame.sequence,
        dtype=None if tensor is None else tensor.dtype,
        shape=() if tensor is None else tensor.shape,
        body=msgspec.Raw(_encoder.encode(body)),
    )
    packed = _encoder.encode(head)
    if tensor is None:
        return [packed + _checksum(packed, b"")]
    data = _flat(tensor.data)
    _check_size(tensor.dtype, tensor.shape, data.nbytes)
    return [packed + _checksum(packed, data), data]


def decode(parts: Sequence[Buffer]) -> Frame:
    """The frame that `encode` was given; its tensor is a view of `parts[1]`.

    Raises ProtocolMismatch, ChecksumMismatch or FrameDamaged.
    """
    if len(parts) not in (1, 2):
        raise FrameDamaged(f"a frame has one or two parts, this one {len(parts)}")
    first = memoryview(parts[0])
    packed, checksum = first[:-CHECKSUM_BYTES], first[-CHECKSUM_BYTES:]
    data = memoryview(parts[1]) if len(parts) == 2 else memoryview(b"")
    try:
        _check_version(packed)
        if _checksum(packed, data) != checksum:
            raise ChecksumMismatch("a frame was changed on the way: its checksum does not match")
        head = _head.decode(packed)
        body = _bodies[head.kind].decode(head.body)
    except UNREADABLE as error:
        raise FrameDamaged(f"a frame cannot be read: {error}") from error
    return Frame(head.epoch, head.sequence, body, _tensor(head, data, len(parts) == 2))


def _tensor(head: _Head, data: memoryview, present: bool) -> Tensor | None:
    if present != (head.dtype is not None):
        raise FrameDamaged(
            "a frame announces a tensor that is not there, or carries one unannounced"
        )
    if head.dtype is None:
        return None
    _check_size(head.dtype, head.shape, data.nbytes)
    return Tensor(head.dtype, head.shape, data.toreadonly())


def _check_version(packed: memoryview) -> None:
    protocol = _version.decode(packed).protocol
    if protocol != DATA_PROTOCOL:
        raise ProtocolMismatch(
            f"the peer speaks data protocol {protocol}, this process {DATA_PROTOCOL}: "
            "run the same release of paceline on every node"
        )


def _check_size(dtype: str, shape: tuple[int, ...], nbytes: int) -> None:
    if dtype not in ITEM_BYTES:
        raise FrameDamaged(f"dtype {dtype!r} does not travel; known are {', '.join(ITEM_BYTES)}")
    if len(shape) > MAX_DIMENSIONS or any(size < 0 for size in shape):
        raise FrameDamaged(f"shape {shape} is no shape of at most {MAX_DIMENSIONS} dimensions")
    expected = math.prod(shape) * ITEM_BYTES[dtype]
    if nbytes != expected:
        raise FrameDamaged(f"{dtype} of shape {shape} has {expected} bytes, these are {nbytes}")


def _flat(data: Buffer) -> memoryview:
    view = memoryview(data)
    if not view.c_contiguous:
        raise FrameDamaged("a tensor must be contiguous in memory to travel")
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def _checksum(packed: bytes | memoryview, data: bytes | memoryview) -> bytes:
    return zlib.crc32(data, zlib.crc32(packed)).to_bytes(CHECKSUM_BYTES, "big")
