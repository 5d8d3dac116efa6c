"""Who measures the way to whom: a ring, so that a large cluster is no more talkative per node."""

from __future__ import annotations

from collections.abc import Iterator

from paceline.controller.actions import Action, Introduce
from paceline.controller.nodes import NodeState
from paceline.controller.passing import Pass
from paceline.types.control import Peers
from paceline.types.ids import NodeName
from paceline.types.links import ProbeOffer

MAX_MEASURED = 32
"""Peers that a node measures, and that measure it."""

REPEAT_S = 10.0
"""An introduction may be lost on the way."""


def introductions(p: Pass) -> Iterator[Action]:
    offers = {
        name: seen.facts.probe
        for name, seen in sorted(p.facts.nodes.items())
        if seen.facts.probe is not None and p.nodes[name] is not NodeState.LOST
    }
    if len(offers) < 2:
        return
    known, at = p.book.introduced
    if known == offers and p.now - at < REPEAT_S:
        return
    ring = list(offers)
    peers = {name: _peers(p, offers, ring, place) for place, name in enumerate(ring)}
    sentence = f"{len(ring)} nodes measure the ways to each other"
    yield Introduce(sentence=sentence, offers=offers, peers=peers)


def _peers(p: Pass, offers: dict[NodeName, ProbeOffer], ring: list[NodeName], place: int) -> Peers:
    """It measures those that follow it in the ring, and is measured by those before it."""
    size = len(ring)
    reach = min(MAX_MEASURED, size - 1)
    after = [ring[(place + step) % size] for step in range(1, reach + 1)]
    before = [ring[(place - step) % size] for step in range(1, reach + 1)]
    return Peers(
        incarnation=p.facts.nodes[ring[place]].facts.incarnation,
        measure={name: offers[name] for name in after},
        admit=tuple(sorted(offers[name].public_key for name in before)),
        term=p.book.term,
    )
