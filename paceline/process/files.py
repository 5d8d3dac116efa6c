"""Small files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")


def write_whole(path: Path, data: bytes) -> None:
    """Replaces the file by `data`, readable by its owner alone; a reader sees the old bytes or
    the new ones, also after a power cut, and the new ones once this has returned. Raises OSError,
    and then leaves nothing else behind."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        fresh.replace(path)
        _sync(path.parent)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def _sync(directory: Path) -> None:
    """Until then a power cut may give a name back its old file."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_struct(path: Path, kind: type[T]) -> T | None:
    """The struct that the JSON file holds; None when there is none or it is not one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None
