"""Who can give a checkpoint to those who lack it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator

from paceline.controller.facts import Facts
from paceline.types.ids import NodeName
from paceline.types.weights import ModelSources, Source

MAX_SOURCES = 8
"""Of one checkpoint: more make a fetch no faster."""


def sources_of(
    facts: Facts, model: str, ready: Collection[NodeName], asker: NodeName | None = None
) -> ModelSources | None:
    """Which checkpoint the model is, and the ready nodes, other than the asker, that have it,
    whole ones first, and each asker others first. None while the model is not known."""
    seen = facts.models.get(model)
    if seen is None or seen.facts is None:
        return None
    digest = seen.facts.digest
    found = sorted(
        _offers(facts, digest, ready, asker),
        key=lambda offer: (not offer[0], _lot(asker, digest, offer[1].node)),
    )
    sources = tuple(source for _, source in found[:MAX_SOURCES])
    return ModelSources(model=model, digest=digest, sources=sources)


def _offers(
    facts: Facts, digest: str, ready: Collection[NodeName], asker: NodeName | None
) -> Iterator[tuple[bool, Source]]:
    """With whether it has all of it."""
    for name in sorted(ready):
        node = facts.nodes[name].facts
        held = next((each for each in node.checkpoints if each.digest == digest), None)
        if name != asker and node.depot is not None and held is not None:
            yield held.is_whole, Source(node=name, depot=node.depot)


def _lot(asker: NodeName | None, digest: str, giver: NodeName) -> bytes:
    """The same in every process, so that no task is another one after a restart."""
    return hashlib.blake2b(f"{asker}\0{digest}\0{giver}".encode(), digest_size=8).digest()
