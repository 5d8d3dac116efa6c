"""CURVE key pairs. Fresh ones live in the memory of the process that made them, and nowhere else;
the two that outlive processes are in `membership.py`."""

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

    @classmethod
    def of_secret(cls, secret: bytes) -> KeyPair:
        """The pair that this secret (Z85) belongs to."""
        return cls(zmq.curve_public(secret).decode("ascii"), secret)
