"""A checkpoint, as far as it is needed, from the nodes that have it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from paceline.checkpoint.manifest import MANIFEST_NAME, read_manifest
from paceline.checkpoint.partial import DiskFull, Partial, chunks_bytes
from paceline.checkpoint.progress import OnProgress, Progress
from paceline.checkpoint.store import Store
from paceline.checkpoint.wanted import Step
from paceline.transport.errors import NobodyGives
from paceline.transport.keys import KeyPair
from paceline.transport.peers import Peers
from paceline.types.errors import CheckpointError
from paceline.types.weights import Source

SPARE_BYTES = 256 << 20
"""Left free on the disk, for all that has to go on there."""

SYNC_EVERY_S = 2.0
"""What has come by then is not fetched again, whatever happens."""

STAGE = "peers"
SOURCE_WORDS = "nodes of the cluster"

log = structlog.get_logger(__name__)


def fetch_checkpoint(
    store: Store,
    model: str,
    digest: str,
    steps: Sequence[Step],
    sources: Sequence[Source],
    keys: KeyPair,
    on_progress: OnProgress,
) -> Path:
    """Directory of the checkpoint `digest`, in which all is that the steps ask for: the whole one
    of the store, or a partial one, filled from the sources. `keys` prove a member of the cluster.

    Called several times a second, `on_progress` may raise, which ends it; what has come is kept.
    Raises NobodyGives when no source could give it, and CheckpointError.
    """
    whole = store.whole(model, digest)
    if whole is not None:
        return whole
    directory = store.partial(digest)
    if _has_all(store, digest, steps):
        return directory
    if not sources:
        raise NobodyGives(f"no node of this cluster gives {model}")
    with Peers(digest, sources, keys) as peers:
        asking = Progress(STAGE, 0, None, f"asking {len(sources)} nodes")
        shown = peers.meet(lambda: on_progress(asking))
        store.drop_partials(model, keep=digest)
        manifest = msgspec.structs.replace(shown, name=model, source=SOURCE_WORDS)
        with Partial(directory, manifest) as partial:
            _Haulage(partial, peers, on_progress).run(steps)
    return directory


class _Haulage:
    """Filling a partial checkpoint, and saying how far it is."""

    def __init__(self, partial: Partial, peers: Peers, on_progress: OnProgress) -> None:
        self._partial = partial
        self._peers = peers
        self._on_progress = on_progress
        self._sync_at = 0.0
        self._done_bytes = 0
        # Until the headers tell which part is needed: nobody is shown a share that shrinks.
        self._total_bytes = partial.manifest.total_bytes

    def run(self, steps: Sequence[Step]) -> None:
        partial = self._partial
        for step in steps:
            chunks = list(partial.missing(step(partial.directory, partial.manifest)))
            more_bytes = chunks_bytes(partial.manifest, chunks)
            _check_room(partial.directory, more_bytes)
            if step is steps[-1]:
                self._total_bytes = self._done_bytes + more_bytes
            self._peers.bring(chunks, self._keep, self._say)
            partial.sync()

    def _keep(self, file: int, chunk: int, data: bytes) -> None:
        self._partial.keep(file, chunk, data)
        self._done_bytes += len(data)

    def _say(self) -> None:
        if time.monotonic() >= self._sync_at:
            self._partial.sync()
            self._sync_at = time.monotonic() + SYNC_EVERY_S
        note = f"from {', '.join(self._peers.names) or 'nobody yet'}"
        self._on_progress(Progress(STAGE, self._done_bytes, self._total_bytes, note))


def _has_all(store: Store, digest: str, steps: Sequence[Step]) -> bool:
    """What cannot be read any more is removed, and so fetched again."""
    directory = store.partial(digest)
    if not (directory / MANIFEST_NAME).is_file():
        return False
    try:
        manifest = read_manifest(directory)
        with Partial(directory, manifest) as partial:
            return not any(any(partial.missing(step(directory, manifest))) for step in steps)
    except CheckpointError as error:
        log.warning("what was fetched is damaged", directory=str(directory), reason=str(error))
        store.drop_partial(digest)
        return False


def _check_room(directory: Path, coming_bytes: int) -> None:
    free = shutil.disk_usage(directory).free
    if coming_bytes and free < coming_bytes + SPARE_BYTES:
        raise DiskFull(
            f"{directory}: {coming_bytes / 1e6:.0f} MB are to be fetched, and of the "
            f"{free / 1e6:.0f} MB that are free there {SPARE_BYTES / 1e6:.0f} MB are left to "
            "others; free some, and it goes on from there"
        )
