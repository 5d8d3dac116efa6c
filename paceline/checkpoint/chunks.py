"""Byte ranges in chunks: the arithmetic, and the hash that a chunk is known by. Nothing is read.

A file is cut into chunks of one size, the last one shorter. Ranges are half-open, of bytes or of
chunk numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

LEAST_BYTES = 256 << 10
MOST_BYTES = 4 << 20
AIMED_AT = 4096
"""Chunks of a file. Each run of tensors that a shard needs moves at most two chunks too many, and
there are few runs: so large files may have large chunks, and no list of hashes grows long."""

HASH_BYTES = 32

Range = tuple[int, int]


def chunk_bytes_for(size: int) -> int:
    """Of each chunk of a file of `size` bytes: a power of two from LEAST_BYTES to MOST_BYTES."""
    needed = -(-size // AIMED_AT)
    return min(max(LEAST_BYTES, 1 << max(needed - 1, 0).bit_length()), MOST_BYTES)


def chunk_count(size: int, chunk_bytes: int) -> int:
    return -(-size // chunk_bytes)


def chunk_range(number: int, size: int, chunk_bytes: int) -> Range:
    """The bytes of a chunk in its file."""
    start = number * chunk_bytes
    return start, min(start + chunk_bytes, size)


def merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same numbers in as few ranges as can be, in order; empty ones are left out."""
    found: list[Range] = []
    for start, stop in sorted(each for each in ranges if each[0] < each[1]):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], stop)
        else:
            found.append((start, stop))
    return tuple(found)


def covering(ranges: Iterable[Range], chunk_bytes: int) -> tuple[Range, ...]:
    """Ranges of chunk numbers that hold all of these bytes, and no chunk that holds none."""
    return merged(
        (start // chunk_bytes, -(-stop // chunk_bytes)) for start, stop in ranges if start < stop
    )


def chunk_hash(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()
