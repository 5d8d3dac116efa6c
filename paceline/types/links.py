"""What is measured between two nodes."""

from __future__ import annotations

import msgspec

from paceline.types.ids import NodeName

DEFAULT_ROUND_TRIP_S = 0.0005
DEFAULT_BYTES_PER_S = 125e6
"""An edge that nobody has measured counts as a switched gigabit network."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """The edge between two nodes, the same in both directions."""

    a: NodeName
    b: NodeName
    round_trip_s: float = DEFAULT_ROUND_TRIP_S
    """Of a small message there and back."""
    bytes_per_s: float = DEFAULT_BYTES_PER_S
    bad: bool = False
    """Known not to work: no line goes over it."""


class Links(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of the edges of a cluster. Of several reports of one edge the worst of
    each figure counts."""

    measured: tuple[Link, ...] = ()
    round_trip_s: float = DEFAULT_ROUND_TRIP_S
    bytes_per_s: float = DEFAULT_BYTES_PER_S
    """Of the edges that nobody has measured."""


NO_LINKS = Links()


class ProbeOffer(msgspec.Struct, frozen=True, kw_only=True):
    """Where a node echoes what its peers send to measure the way to it."""

    address: str
    public_key: str
    """CURVE key of its echo and of its own soundings, Z85."""
