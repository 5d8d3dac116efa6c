"""CURVE key pairs. A secret lives in the memory of the process that made it, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, field

import zmq


@dataclass(frozen=True, slots=True)
class KeyPair:
    public: str
    """Z85, 40 characters: what may be shown to everyone."""
    secret: bytes = field(repr=False)

    @classmethod
    def fresh(cls) -> KeyPair:
        public, secret = zmq.curve_keypair()
        return cls(public.decode("ascii"), secret)
