"""`paceline.json`: what a stored checkpoint consists of, and the digest that identifies it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from paceline.checkpoint.progress import OnProgress, Progress, silent
from paceline.types.errors import CheckpointError

MANIFEST_NAME = "paceline.json"
_READ_BYTES = 4 << 20


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    size: int
    sha256: str


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
        StoredFile(
            name=path.name,
            size=path.stat().st_size,
            sha256=sha256_file(path, on_progress, "hash"),
        )
        for path in sorted(directory.iterdir())
        if path.is_file() and path.name != MANIFEST_NAME
    )
    return Manifest(name=name, source=source, files=files, digest=content_digest(files))


def content_digest(files: tuple[StoredFile, ...]) -> str:
    identity = hashlib.sha256()
    for file in files:
        identity.update(f"{file.name}\0{file.size}\0{file.sha256}\n".encode())
    return identity.hexdigest()


def write_manifest(directory: Path, manifest: Manifest) -> None:
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (directory / MANIFEST_NAME).write_bytes(encoded + b"\n")


def read_manifest(directory: Path) -> Manifest:
    """Raises CheckpointError when the manifest is missing or does not parse."""
    path = directory / MANIFEST_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise CheckpointError(
            f"{path}: not a manifest ({error}); remove the model and pull or import it again"
        ) from error
