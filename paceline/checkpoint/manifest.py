"""`paceline.json`: what a stored checkpoint consists of, and the digest that identifies it.

The digest is over the hash of every chunk. So whoever trusts a digest can check any chunk of the
checkpoint, wherever it comes from, without having the rest.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import msgspec

from paceline.checkpoint.chunks import (
    HASH_BYTES,
    MOST_BYTES,
    Range,
    chunk_bytes_for,
    chunk_count,
    chunk_hash,
    chunk_range,
)
from paceline.checkpoint.progress import OnProgress, Progress, silent
from paceline.types.errors import CheckpointDamaged, CheckpointError

MANIFEST_NAME = "paceline.json"
RECORD_NAME = "held.log"
"""Beside the manifest of a checkpoint that is only partly there (see `partial.py`)."""
CACHE_NAME = "quantised"
"""The directory, beside the files, of what the engine made of them."""

_READ_BYTES = 4 << 20


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    size: int
    chunk_bytes: Annotated[int, msgspec.Meta(gt=0)]
    hashes: bytes
    """Of the chunks, BLAKE2b, one after the other."""

    @property
    def chunks(self) -> int:
        return chunk_count(self.size, self.chunk_bytes)

    def range_of(self, chunk: int) -> Range:
        return chunk_range(chunk, self.size, self.chunk_bytes)

    def hash_of(self, chunk: int) -> bytes:
        return self.hashes[chunk * HASH_BYTES : (chunk + 1) * HASH_BYTES]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    source: str
    """Where the checkpoint came from, for people to read."""
    files: tuple[StoredFile, ...]
    """Sorted by name; the manifest itself is not among them."""
    digest: str
    """Content identity: equal digests mean equal files, whatever the checkpoint is called."""

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)


def sha256_file(path: Path, on_progress: OnProgress = silent, stage: str = "verify") -> str:
    """SHA-256 of a file in hex. Raises CheckpointError if it cannot be read."""
    digest, done = hashlib.sha256(), 0
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
                done += len(block)
                on_progress(Progress(stage, done, total, path.name))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def describe(directory: Path, name: str, source: str, on_progress: OnProgress = silent) -> Manifest:
    """Hash every file of a checkpoint directory into a manifest."""
    files = tuple(
        describe_file(path, on_progress)
        for path in sorted(directory.iterdir())
        if path.is_file() and path.name != MANIFEST_NAME
    )
    return Manifest(name=name, source=source, files=files, digest=content_digest(files))


def describe_file(path: Path, on_progress: OnProgress = silent) -> StoredFile:
    """Raises CheckpointError if it cannot be read."""
    hashes, done = bytearray(), 0
    try:
        total = path.stat().st_size
        chunk_bytes = chunk_bytes_for(total)
        with path.open("rb") as file:
            while chunk := file.read(chunk_bytes):
                hashes += chunk_hash(chunk)
                done += len(chunk)
                on_progress(Progress("hash", done, total, path.name))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return StoredFile(name=path.name, size=done, chunk_bytes=chunk_bytes, hashes=bytes(hashes))


def content_digest(files: tuple[StoredFile, ...]) -> str:
    identity = hashlib.blake2b(digest_size=HASH_BYTES)
    for file in files:
        identity.update(f"{file.name}\0{file.size}\0{file.chunk_bytes}\n".encode())
        identity.update(file.hashes)
    return identity.hexdigest()


def encode_manifest(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def write_manifest(directory: Path, manifest: Manifest) -> None:
    (directory / MANIFEST_NAME).write_bytes(encode_manifest(manifest))


def read_manifest(directory: Path) -> Manifest:
    """Raises CheckpointError when the manifest cannot be read, CheckpointDamaged when it does not
    parse."""
    path = directory / MANIFEST_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointDamaged(
            f"{path}: not a manifest ({error}); remove the model and pull or import it again"
        ) from error


def trusted_manifest(encoded: bytes, digest: str) -> Manifest:
    """The manifest that a stranger sent, if it is the one of `digest`; its hashes and names can
    then be relied on. Raises CheckpointError."""
    try:
        manifest = msgspec.msgpack.decode(encoded, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"not a manifest: {error}") from error
    if content_digest(manifest.files) != digest or manifest.digest != digest:
        raise CheckpointError(f"the manifest is not the one of {digest:.16}…")
    names = [file.name for file in manifest.files]
    if not all(_is_sound(file) for file in manifest.files) or len(set(names)) < len(names):
        raise CheckpointError(f"the manifest of {digest:.16}… names files that no checkpoint has")
    return manifest


def _is_sound(file: StoredFile) -> bool:
    """It cannot leave its directory, nor take the place of what is ours there, nor be read as two
    in what the digest is over; its chunks find room in memory."""
    plain = file.name == Path(file.name).name and not file.name.startswith(".")
    ours = file.name in (MANIFEST_NAME, RECORD_NAME, CACHE_NAME)
    named = bool(file.name) and file.name.isprintable() and plain and not ours
    is_hashed = len(file.hashes) == HASH_BYTES * file.chunks
    return named and file.size >= 0 and file.chunk_bytes <= MOST_BYTES and is_hashed
