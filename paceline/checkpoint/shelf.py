"""What a node can give to others of the checkpoints in its store: manifests and chunks."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from paceline.checkpoint.manifest import MANIFEST_NAME, RECORD_NAME, Manifest, read_manifest
from paceline.checkpoint.partial import Chunks, held, is_whole, whole
from paceline.checkpoint.store import Store
from paceline.types.errors import CheckpointError
from paceline.types.weights import HeldCheckpoint

MAX_CHECKPOINTS = 64
"""That are looked at, and told of."""


class _Kept(msgspec.Struct):
    """A checkpoint of the store, as it was read; again when its files change."""

    directory: Path
    version: tuple[int, ...]
    manifest: Manifest
    held: Chunks


class Shelf:
    """For one thread. Checkpoints without hashes of their chunks are none of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[Path, _Kept] = {}
        self._by_digest: dict[str, _Kept] = {}

    def look(self) -> tuple[HeldCheckpoint, ...]:
        """What is there now. Never raises: what cannot be read is not there."""
        directories = self._store.directories()[:MAX_CHECKPOINTS]
        found = [kept for path in directories if (kept := self._read(path)) is not None]
        self._kept = {kept.directory: kept for kept in found}
        # Whole ones come first, and win.
        self._by_digest = {kept.manifest.digest: kept for kept in reversed(found)}
        return tuple(
            HeldCheckpoint(digest=digest, is_whole=is_whole(kept.manifest, kept.held))
            for digest, kept in self._by_digest.items()
        )

    def show(self, digest: str) -> tuple[bytes, Chunks] | None:
        """The manifest in msgpack and which chunks are here; None if none are."""
        kept = self._by_digest.get(digest)
        if kept is None:
            return None
        return msgspec.msgpack.encode(kept.manifest), kept.held

    def chunk(self, digest: str, file: int, chunk: int) -> bytes | None:
        """None if it is not here, or cannot be read."""
        kept = self._by_digest.get(digest)
        if kept is None:
            return None
        ranges = kept.held.get(file, ())
        if not any(start <= chunk < stop for start, stop in ranges):
            return None
        described = kept.manifest.files[file]
        start, stop = described.range_of(chunk)
        return _read(kept.directory / described.name, start, stop)

    def _read(self, directory: Path) -> _Kept | None:
        version = tuple(_mtime(directory / name) for name in (MANIFEST_NAME, RECORD_NAME))
        known = self._kept.get(directory)
        if known is not None and known.version == version:
            return known
        try:
            manifest = read_manifest(directory)
            part = held(directory)
        except CheckpointError:
            return None
        there = whole(manifest) if part is None else part.chunks
        return _Kept(directory, version, manifest, there)


def _mtime(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _read(path: Path, start: int, stop: int) -> bytes | None:
    """Exactly these bytes of a file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(descriptor, stop - start, start)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    return data if len(data) == stop - start else None
