"""A log file that cannot grow without bound and cannot hurt its writer."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path


class BoundedFile:
    """Appends lines to `path`; at `max_bytes` it becomes `path.1`, and so on up to `backups`.

    Nothing here raises: a line that cannot be written (a full disk, a directory gone) is counted
    in `lost`, and the next one is tried again. Several threads may write.
    """

    def __init__(self, path: Path, *, max_bytes: int, backups: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._guard = threading.Lock()
        self._fd: int | None = None
        self._size = 0
        self._torn = False
        self.lost = 0

    def write(self, line: bytes) -> bool:
        """Appends the line and its newline; False if it was lost."""
        with self._guard:
            try:
                self._write(line + b"\n")
            except OSError:
                self.lost += 1
                self._close()
                return False
            return True

    def close(self) -> None:
        with self._guard:
            self._close()

    def _write(self, data: bytes) -> None:
        if self._torn:
            data = b"\n" + data
        fd = self._ready(len(data))
        written = os.write(fd, data)
        self._size += written
        self._torn = written < len(data)
        if self._torn:
            raise OSError("the disk took only a part of the line")

    def _ready(self, coming: int) -> int:
        if self._fd is not None and not self._path.exists():
            self._close()
        fd = self._fd if self._fd is not None else self._open()
        if self._size and self._size + coming > self._max_bytes:
            self._close()
            self._rotate()
            fd = self._open()
        return fd

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size
        return self._fd

    def _rotate(self) -> None:
        names = [self._path, *(Path(f"{self._path}.{n}") for n in range(1, self._backups + 1))]
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            with suppress(FileNotFoundError):
                newer.replace(older)
        if not self._backups:
            self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._fd is not None:
            with suppress(OSError):
                os.close(self._fd)
            self._fd = None


def prune(directory: Path, pattern: str, keep: int) -> None:
    """Removes all but the `keep` newest files that match; nothing raises."""
    with suppress(OSError):
        aged = sorted((path.stat().st_mtime, path) for path in directory.glob(pattern))
        for _, path in aged[: max(0, len(aged) - keep)]:
            path.unlink(missing_ok=True)
