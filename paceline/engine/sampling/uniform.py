"""The counter-based generator: no state to lose, so a resumed stream continues the same draw."""

from __future__ import annotations

import struct
from hashlib import blake2b

_KEY = struct.Struct("<QQQ")
_MANTISSA_BITS = 53


def uniform(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1) on a grid of 2**-53: a pure function of its key.

    A keyed hash is a counter-based generator whose streams are independent whatever the keys,
    and the same on every machine and in every version of every library.
    """
    digest = blake2b(_KEY.pack(seed, choice, position), digest_size=8).digest()
    bits = int.from_bytes(digest, "little") >> (64 - _MANTISSA_BITS)
    return float(bits) * 2.0**-_MANTISSA_BITS
