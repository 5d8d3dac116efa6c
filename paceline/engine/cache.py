"""Quantised matrices kept on disk beside the checkpoint they were made of.

A unit ("layer-3", "layer-3.int4") has a file, and the file says what it was made of; one that was
made of anything else, or is damaged, is not read, and is written anew. All int8 units of a model
are about half its size, those of int4 about half of that, and they go when it goes. Whatever is
wrong with the disk costs the cache and nothing else.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import zlib
from io import FileIO
from pathlib import Path

import msgspec
import structlog
from torch import Tensor

from paceline.checkpoint.manifest import CACHE_NAME
from paceline.engine.quantised import PACKING

SPARE_BYTES = 1 << 30
"""Left free on the disk: others need it more than a cache does."""

_FORMAT = "paceline-quantised"
_HEADER_BYTES = 4096

_log = structlog.get_logger(__name__)


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    format: str
    packing: int
    digest: str
    """Of the checkpoint."""
    unit: str
    nbytes: int
    crc: int


class UnitCache:
    """Of one checkpoint. Any thread and any number of processes may use it."""

    def __init__(self, checkpoint: Path, digest: str) -> None:
        """`digest`: the content identity of the checkpoint."""
        self._directory = checkpoint / CACHE_NAME
        self._digest = digest

    def read(self, unit: str, memory: Tensor) -> bool:
        """Fill `memory`, uint8, with the unit. False if it is not there, is another's, or is
        damaged; then `memory` may hold anything."""
        try:
            with (self._directory / unit).open("rb", buffering=0) as file:
                found = file.read(_HEADER_BYTES).rstrip(b"\0")
                bytes_ = memory.numpy().data
                if not _fill(file, bytes_) or file.read(1):
                    return False
                return found == self._header(unit, bytes_)
        except OSError:
            return False

    def write(self, unit: str, memory: Tensor) -> None:
        """Keep the unit, unless another process is at it or the disk is nearly full."""
        try:
            self._directory.mkdir(exist_ok=True)
            if shutil.disk_usage(self._directory).free < len(memory) + SPARE_BYTES:
                _log.info("weights_not_cached", unit=unit, reason="the disk is nearly full")
                return
            self._replace(unit, memory.numpy().data)
        except OSError as error:
            _log.info("weights_not_cached", unit=unit, reason=str(error))

    def _replace(self, unit: str, bytes_: memoryview) -> None:
        """A dead writer's file is written over; so there is never more than one beside a unit's."""
        fresh = self._directory / f"{unit}.new"
        with fresh.open("ab", buffering=0) as file:
            if not _only_writer(file, fresh):
                return
            try:
                file.truncate(0)
                _write_all(file, self._header(unit, bytes_).ljust(_HEADER_BYTES, b"\0"))
                _write_all(file, bytes_)
                fresh.replace(self._directory / unit)
            except OSError:
                fresh.unlink(missing_ok=True)
                raise

    def _header(self, unit: str, bytes_: memoryview) -> bytes:
        header = _Header(
            format=_FORMAT,
            packing=PACKING,
            digest=self._digest,
            unit=unit,
            nbytes=len(bytes_),
            crc=zlib.crc32(bytes_),
        )
        return msgspec.json.encode(header)


def _only_writer(file: FileIO, path: Path) -> bool:
    """Whether nobody else has the file, and it still is what the path names: whoever had it may
    have renamed it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _fill(file: FileIO, bytes_: memoryview) -> bool:
    while bytes_:
        got = file.readinto(bytes_)
        if not got:
            return False
        bytes_ = bytes_[got:]
    return True


def _write_all(file: FileIO, bytes_: bytes | memoryview) -> None:
    view = memoryview(bytes_)
    while view:
        view = view[file.write(view) :]
