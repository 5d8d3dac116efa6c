"""How many nodes a placement may take: the owner's tiers, and what the caller says over them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from paceline.types.instance import InstanceWish
from paceline.types.policy import DEFAULT_TIERS, Tier


class Counts(msgspec.Struct, frozen=True):
    """Counts of nodes: `least` to `most` are free to choose; memory may take up to `ceiling`."""

    least: int
    most: int
    ceiling: int


def policy_nodes(disk_bytes: int, tiers: Sequence[Tier] = DEFAULT_TIERS) -> int:
    """Most nodes that the policy gives to a checkpoint of this size."""
    return next(
        tier.nodes for tier in tiers if tier.below_bytes is None or disk_bytes < tier.below_bytes
    )


def counts(
    wish: InstanceWish, disk_bytes: int, nodes: int, layers: int, tiers: Sequence[Tier]
) -> Counts | None:
    """What a wish allows on so many nodes for a model of so many layers; None: nothing.

    The caller's bounds win over the policy. Memory does too, where the caller gave no max_nodes.
    """
    ceiling = min(wish.max_nodes or nodes, nodes, layers)
    if wish.min_nodes > ceiling:
        return None
    policy = ceiling if wish.max_nodes else policy_nodes(disk_bytes, tiers)
    return Counts(wish.min_nodes, min(max(policy, wish.min_nodes), ceiling), ceiling)
