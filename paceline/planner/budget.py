"""What the planner is told about nodes, and what it assumes where nobody has measured."""

from __future__ import annotations

import math
from functools import lru_cache

import msgspec

from paceline.types.ids import NodeName
from paceline.types.model import Shard

DEFAULT_SECONDS_PER_BYTE = 1e-10
"""A node that nobody has measured reads 10 GB of weights a second."""

STEPS_PER_DECADE = 24
STEPS_KEPT = 16_384
"""Figures whose steps are not worked out again: clusters ask for the same ones many times."""


class NodeBudget(msgspec.Struct, frozen=True, kw_only=True):
    """What a node offers to placements, in bytes, what of it nobody has reserved, and how fast it
    is."""

    name: NodeName
    memory_bytes: int
    free_bytes: int
    seconds_per_byte: float | None = None
    """To bring one row through a byte of weights, as measured; None: not measured yet."""
    holds: tuple[Shard, ...] = ()
    """Shards of this model, in this dtype, that runners of this instance have loaded here."""
    on_disk: bool = True
    """The model's files are here."""


@lru_cache(maxsize=STEPS_KEPT)
def coarse(measured: float) -> float:
    """A measured figure in steps of 10 %: noise neither asks the planner again nor decides.

    0 and what is no number stay as they are.
    """
    if not measured > 0 or math.isinf(measured):
        return measured
    return float(10 ** (round(math.log10(measured) * STEPS_PER_DECADE) / STEPS_PER_DECADE))
