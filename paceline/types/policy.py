"""How many nodes a model takes when nobody says and memory does not decide: the owner's table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from paceline.types.errors import InvalidRequest

GB = 10**9


class Tier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Checkpoints of less than `below_bytes` on disk take up to `nodes` nodes."""

    below_bytes: float | None = None
    """None: all that are left."""
    nodes: int


DEFAULT_TIERS = (
    Tier(below_bytes=2 * GB, nodes=1),
    Tier(below_bytes=10 * GB, nodes=2),
    Tier(nodes=4),
)


def check_tiers(tiers: Sequence[Tier]) -> None:
    """Raises InvalidRequest unless the tiers rise and cover every size."""
    if not tiers or tiers[-1].below_bytes is not None:
        raise InvalidRequest(
            "the last of the tiers must have no below_bytes: it takes what is left"
        )
    bounds = [tier.below_bytes for tier in tiers[:-1]]
    if None in bounds:
        raise InvalidRequest("only the last of the tiers may have no below_bytes")
    if any(not before < after for before, after in pairwise(b for b in bounds if b is not None)):
        raise InvalidRequest("tiers must stand in the order of their below_bytes")
    if any(tier.nodes < 1 for tier in tiers):
        raise InvalidRequest("a tier must allow at least 1 node")


def read_tiers(text: str) -> tuple[Tier, ...]:
    """From JSON, as one process tells another. Raises ValueError."""
    return msgspec.json.decode(text, type=tuple[Tier, ...])
