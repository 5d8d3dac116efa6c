"""How many nodes a model should take when nobody says and memory does not decide."""

from __future__ import annotations

import msgspec

GB = 10**9


class Tier(msgspec.Struct, frozen=True):
    """Checkpoints of less than `below_bytes` on disk take up to `nodes` nodes."""

    below_bytes: float
    nodes: int


TIERS = (
    Tier(below_bytes=2 * GB, nodes=1),
    Tier(below_bytes=10 * GB, nodes=2),
    Tier(below_bytes=float("inf"), nodes=4),
)


def policy_nodes(disk_bytes: int, tiers: tuple[Tier, ...] = TIERS) -> int:
    """Most nodes the policy gives to a checkpoint of this size."""
    return next(tier.nodes for tier in tiers if disk_bytes < tier.below_bytes)
