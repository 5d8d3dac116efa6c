"""Who has which checkpoints, and where they can be had."""

from __future__ import annotations

import msgspec

from paceline.types.ids import NodeName


class DepotOffer(msgspec.Struct, frozen=True, kw_only=True):
    """Where a node gives chunks of its checkpoints to the members of its cluster."""

    address: str
    public_key: str
    """CURVE key of the depot, Z85."""


class HeldCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that a node can give to others."""

    digest: str
    is_whole: bool
    """Else it has some of its chunks."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A node that has chunks of a certain checkpoint."""

    node: NodeName
    depot: DepotOffer


class ModelSources(msgspec.Struct, frozen=True, kw_only=True):
    """Which checkpoint a model is in this cluster, and who has it."""

    model: str
    digest: str
    sources: tuple[Source, ...]
