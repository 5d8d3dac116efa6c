"""A checkpoint of which a node has only some chunks: sparse files, and a record of what is there.

It lies in `<home>/partial/<digest>`, never among the whole ones. The record is a log: a chunk is
in it once its bytes are right and on the disk. So whoever dies while writing leaves nothing that
is wrong, and the next one goes on from there; and several processes may fill it at once, for what
they write into the same place is the same.

Whoever fills it holds the directory itself, not its path: when it is removed and made anew
meanwhile, nothing that went into the old files gets into the new record.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from paceline.checkpoint.chunks import Range, chunk_hash, covering, merged
from paceline.checkpoint.manifest import (
    CACHE_NAME,
    MANIFEST_NAME,
    RECORD_NAME,
    Manifest,
    encode_manifest,
    read_manifest,
)
from paceline.types.errors import CheckpointError

SYNC_BYTES = 16 << 20
"""What may have to be fetched again after a crash."""

_ENTRY = re.compile(rb"(\d{1,9}) (\d{1,9}) (\d{1,9});")
_FULL = (errno.ENOSPC, errno.EDQUOT)

Chunks = Mapping[int, tuple[Range, ...]]
"""Ranges of chunk numbers by the number of their file in the manifest."""


class WrongBytes(CheckpointError):
    """These are not the bytes of the chunk."""


class DiskFull(CheckpointError):
    """There is no room for the chunk."""


class Held:
    """Which bytes of a partial checkpoint are there, as its record had it when it was read."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Raises CheckpointError when the record cannot be read."""
        self.chunks: Chunks = _read_record(directory / RECORD_NAME, manifest)
        self._files = {file.name: (n, file) for n, file in enumerate(manifest.files)}

    def covers(self, name: str, start: int, stop: int) -> bool:
        """Whether bytes [start, stop) of a file are there."""
        if name not in self._files:
            return False
        number, file = self._files[name]
        there = self.chunks.get(number, ())
        return all(
            any(first <= low and high <= last for first, last in there)
            for low, high in covering([(start, stop)], file.chunk_bytes)
        )


def held(directory: Path) -> Held | None:
    """What is there of the partial checkpoint in `directory`; None if it is none, and so whole."""
    if not (directory / RECORD_NAME).is_file():
        return None
    return Held(directory, read_manifest(directory))


class Partial:
    """Open for writing; a context manager. Leaving the block writes down what was kept."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Made if it is not there; what is there of it is kept. Raises CheckpointError."""
        self.directory = directory
        self.manifest = manifest
        self._open = ExitStack()
        self._descriptors: dict[int, int] = {}
        self._unwritten: list[tuple[int, int]] = []
        self._unsynced_bytes = 0
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._here = self._opened(directory, os.O_RDONLY | os.O_DIRECTORY)
            _lay_out(self._here, manifest)
        except OSError as error:
            self._open.close()
            raise _trouble(directory, error) from error

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def missing(self, wanted: Chunks) -> Iterator[tuple[int, int]]:
        """(file, chunk) of those that are wanted and not there, in order."""
        there = _read_record(self.directory / RECORD_NAME, self.manifest, self._here)
        for file, ranges in wanted.items():
            have = {n for start, stop in there.get(file, ()) for n in range(start, stop)}
            yield from ((file, n) for a, b in ranges for n in range(a, b) if n not in have)

    def keep(self, file: int, chunk: int, data: bytes | memoryview) -> None:
        """Write a chunk to its place. Raises WrongBytes, with nothing changed, if it is not the
        chunk; DiskFull or CheckpointError if it cannot be written."""
        described = self.manifest.files[file]
        if chunk_hash(data) != described.hash_of(chunk):
            raise WrongBytes(f"chunk {chunk} of {described.name} is not what it should be")
        try:
            _write_all(self._descriptor(file), data, described.range_of(chunk)[0])
        except OSError as error:
            raise _trouble(self.directory / described.name, error) from error
        self._unwritten.append((file, chunk))
        self._unsynced_bytes += len(data)
        if self._unsynced_bytes >= SYNC_BYTES:
            self.sync()

    def sync(self) -> None:
        """Have all that was kept on the disk, and then in the record. Raises DiskFull or
        CheckpointError; what the record lacks is fetched again."""
        if not self._unwritten:
            return
        # A disk tells of what it lost once: what a failed sync leaves is in doubt for good.
        unwritten, self._unwritten, self._unsynced_bytes = self._unwritten, [], 0
        try:
            for descriptor in self._descriptors.values():
                os.fdatasync(descriptor)
            _append(self._here, _entries(unwritten))
        except OSError as error:
            raise _trouble(self.directory, error) from error

    def close(self) -> None:
        """Raises what `sync` raises."""
        with self._open:
            self.sync()

    def _descriptor(self, file: int) -> int:
        if file not in self._descriptors:
            name = self.manifest.files[file].name
            self._descriptors[file] = self._opened(name, os.O_WRONLY, self._here)
        return self._descriptors[file]

    def _opened(self, path: Path | str, flags: int, directory: int | None = None) -> int:
        """Until the close."""
        descriptor = os.open(path, flags | os.O_CLOEXEC, dir_fd=directory)
        self._open.callback(os.close, descriptor)
        return descriptor


def is_whole(manifest: Manifest, there: Chunks) -> bool:
    return all(
        not file.chunks or there.get(number) == ((0, file.chunks),)
        for number, file in enumerate(manifest.files)
    )


def whole(manifest: Manifest) -> Chunks:
    """Every chunk of the checkpoint."""
    return {number: ((0, file.chunks),) for number, file in enumerate(manifest.files)}


def chunks_bytes(manifest: Manifest, chunks: Iterable[tuple[int, int]]) -> int:
    """How long these (file, chunk) are together."""
    ranges = (manifest.files[file].range_of(chunk) for file, chunk in chunks)
    return sum(stop - start for start, stop in ranges)


def _lay_out(here: int, manifest: Manifest) -> None:
    """The manifest comes last: where it is, the record and the files are. Where it is not, nothing
    is known of the files, whatever a removal that was cut short has left of a record."""
    if _exists(here, MANIFEST_NAME):
        return
    _write(here, RECORD_NAME, os.O_TRUNC)
    shutil.rmtree(CACHE_NAME, ignore_errors=True, dir_fd=here)
    for file in manifest.files:
        _write(here, file.name, size=file.size)
    fresh = f".manifest-{secrets.token_hex(4)}"
    _write(here, fresh, os.O_EXCL, encode_manifest(manifest))
    os.fsync(here)
    os.rename(fresh, MANIFEST_NAME, src_dir_fd=here, dst_dir_fd=here)
    os.fsync(here)


def _exists(here: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=here)
    except FileNotFoundError:
        return False
    return True


def _write(
    here: int, name: str, flags: int = 0, data: bytes = b"", size: int | None = None
) -> None:
    """Create the file, unless it is there, and have on the disk: data at its start, its size."""
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o644, dir_fd=here)
    try:
        _write_all(descriptor, data, 0)
        if size is not None:
            os.truncate(descriptor, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entries(kept: Iterable[tuple[int, int]]) -> bytes:
    """Each on a line of its own that is begun and ended: one that a crash cut short is no entry,
    and spoils none that follows."""
    by_file: dict[int, list[Range]] = {}
    for file, chunk in kept:
        by_file.setdefault(file, []).append((chunk, chunk + 1))
    return b"".join(
        f"\n{file} {start} {stop};".encode()
        for file, ranges in sorted(by_file.items())
        for start, stop in merged(ranges)
    )


def _append(here: int, entries: bytes) -> None:
    """Never to a record that had to be made: it would tell of files that went with the old one."""
    descriptor = os.open(RECORD_NAME, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, dir_fd=here)
    try:
        while entries:
            entries = entries[os.write(descriptor, entries) :]
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _read_record(path: Path, manifest: Manifest, here: int | None = None) -> Chunks:
    """Of the directory `here`, where it is given, whatever lies at its path by now."""
    try:
        descriptor = os.open(path if here is None else path.name, os.O_RDONLY, dir_fd=here)
        with open(descriptor, "rb") as record:
            lines = record.read().split(b"\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    by_file: dict[int, list[Range]] = {}
    for entry in filter(None, map(_ENTRY.fullmatch, lines)):
        file, start, stop = (int(word) for word in entry.groups())
        if file < len(manifest.files) and stop <= manifest.files[file].chunks:
            by_file.setdefault(file, []).append((start, stop))
    return {file: merged(ranges) for file, ranges in by_file.items()}


def _write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _trouble(path: Path, error: OSError) -> CheckpointError:
    if error.errno in _FULL:
        return DiskFull(
            f"{path}: the disk is full; what has come so far is kept, and it goes on from there "
            "once there is room"
        )
    return CheckpointError(f"{path}: cannot be written: {error.strerror}")
