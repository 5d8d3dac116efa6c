"""Names of things. All are plain strings on the wire; the aliases say which is meant."""

from __future__ import annotations

import secrets
from typing import NewType

import msgspec

NodeName = NewType("NodeName", str)
RunnerId = NewType("RunnerId", str)
"""Names a process for its whole life, whatever seat it takes."""
InstanceId = NewType("InstanceId", str)
TaskId = NewType("TaskId", str)
StreamId = NewType("StreamId", str)
GatewayId = NewType("GatewayId", str)


def fresh_id(prefix: str) -> str:
    """A name that no other thing of the cluster has: `prefix` and 48 random bits."""
    return f"{prefix}-{secrets.token_hex(6)}"


MAX_EPOCH = 2**48
"""No term and no n that a controller comes to by itself is so high. Whoever accepted a higher one
would leave no room above it, on the wire or for a controller that has to rise above it."""


class Epoch(msgspec.Struct, frozen=True, order=True, array_like=True):
    """(term, n): term grows with every controller start, n with every placement or reconnection.

    Ordered; whoever has seen an epoch refuses every older one (fencing).
    """

    term: int
    n: int

    def __str__(self) -> str:
        return f"{self.term}.{self.n}"


class Seat(msgspec.Struct, frozen=True, array_like=True):
    """A place in a line."""

    instance: InstanceId
    rank: int

    def __str__(self) -> str:
        return f"{self.instance}/{self.rank}"
