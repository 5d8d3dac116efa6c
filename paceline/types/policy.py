"""How many nodes a model takes when nobody says and memory does not decide: the owner's table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from paceline.types.errors import InvalidRequest

GB = 10**9


class Tier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Checkpoints of less than `below_bytes` on disk take up to `nodes` nodes."""

    below_bytes: float
    nodes: int


DEFAULT_TIERS = (
    Tier(below_bytes=2 * GB, nodes=1),
    Tier(below_bytes=10 * GB, nodes=2),
    Tier(below_bytes=math.inf, nodes=4),
)


def check_tiers(tiers: Sequence[Tier]) -> None:
    """Raises InvalidRequest unless the tiers rise and cover every size."""
    if not tiers or tiers[-1].below_bytes != math.inf:
        raise InvalidRequest("the last of the tiers must have below_bytes = inf")
    for before, after in pairwise(tiers):
        if not before.below_bytes < after.below_bytes:
            raise InvalidRequest("tiers must stand in the order of their below_bytes")
    if any(tier.nodes < 1 for tier in tiers):
        raise InvalidRequest("a tier must allow at least 1 node")


def write_tiers(tiers: Sequence[Tier]) -> str:
    """As one process tells another: JSON knows no infinity."""
    return ",".join(f"{tier.below_bytes!r}:{tier.nodes}" for tier in tiers)


def read_tiers(text: str) -> tuple[Tier, ...]:
    """What `write_tiers` wrote. Raises ValueError."""
    pairs = (part.split(":") for part in text.split(","))
    return tuple(Tier(below_bytes=float(below), nodes=int(nodes)) for below, nodes in pairs)
