"""Taking memory and disk away from living processes, by the kernel's own means."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = ("memory.limit_in_bytes", "memory.max")
"""Versions 1 and 2 of cgroups(7)."""


class MemoryGroup:
    """A control group of its own; what is moved into it may use so much, and no more."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._limit = next(directory / name for name in _LIMITS if (directory / name).exists())

    def take(self, pid: int) -> None:
        """The process; what it starts from now on is in the group too."""
        (self.directory / "cgroup.procs").write_text(str(pid))

    def limit(self, count: int) -> None:
        self._limit.write_text(str(count))

    def lift(self) -> None:
        self._limit.write_text("-1" if self._limit.name == _LIMITS[0] else "max")


@contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """Skips the test where no control group can be made."""
    parent = _CGROUP / "memory" if (_CGROUP / "memory").is_dir() else _CGROUP
    directory = parent / f"paceline-{secrets.token_hex(4)}"
    try:
        directory.mkdir()
        group = MemoryGroup(directory)
    except (OSError, StopIteration):
        with suppress(OSError):
            directory.rmdir()
        pytest.skip("this machine lets us make no control group with a memory limit")
    try:
        yield group
    finally:
        group.lift()
        for pid in (directory / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (parent / "cgroup.procs").write_text(pid)
        with suppress(OSError):
            directory.rmdir()


def limit_address_space(pid: int, more: int) -> None:
    """From now on the process may map only so many bytes more than it has."""
    _set_address_space(pid, psutil.Process(pid).memory_info().vms + more)


def lift_address_space(pid: int) -> None:
    _set_address_space(pid, None)


def _set_address_space(pid: int, soft: int | None) -> None:
    """Its own bound only; None: as much as the system lets it."""
    _, hard = psutil.Process(pid).rlimit(psutil.RLIMIT_AS)
    psutil.Process(pid).rlimit(psutil.RLIMIT_AS, (hard if soft is None else soft, hard))


class SmallDisk:
    """A file system in memory, of a size of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Until so many bytes are free."""
        self.free()
        with self._ballast.open("wb", buffering=0) as file:
            while (left := self._room() - leave) > 0:
                try:
                    file.write(bytes(min(left, 1 << 20)))
                except OSError:
                    break

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)

    @property
    def is_full(self) -> bool:
        return self._room() == 0

    def _room(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[SmallDisk]:
    """Mounts one at `path`. Skips the test where that is not permitted."""
    path.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=False, timeout=30)
