"""The local model store: whole checkpoints under `<home>/models/<name>`, and nothing half-made.

A checkpoint is built in `<home>/staging/<name>` under the name's lock and appears under its
name by one rename. Whoever holds the lock of a name owns its staging directory, so anything
found there was left by a process that died, and is removed. What a broken download has left in
`<home>/downloads/<name>` is kept, so that the next try can resume it. What a node has fetched of a
checkpoint without having all of it lies apart, in `<home>/partial/<digest>` (see `partial.py`).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from paceline.checkpoint.manifest import (
    MANIFEST_NAME,
    RECORD_NAME,
    Manifest,
    describe,
    read_manifest,
    write_manifest,
)
from paceline.checkpoint.progress import OnProgress, silent
from paceline.types.errors import (
    CheckpointDamaged,
    CheckpointError,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
)

LOCK_TIMEOUT_S = 3600.0
"""How long to wait for another process that pulls or imports the same model."""

STALE_S = 3600.0
"""After which what was begun of a partial checkpoint and has no manifest was left by the dead."""

_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,96}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def checked_name(name: str) -> str:
    """The name itself: one path component, which cannot leave the store. Else InvalidRequest."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} is not a model name; use up to 96 letters, digits, '.', '_' or '-', "
            "not beginning with '.'"
        )
    return name


class Store:
    """The checkpoints of one PACELINE_HOME; safe to use from several processes at once."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._models = home / "models"
        self._staging = home / "staging"
        self._downloads = home / "downloads"
        self._partial = home / "partial"
        self._locks = home / "locks"

    def has(self, name: str) -> bool:
        return (self._models / checked_name(name) / MANIFEST_NAME).is_file()

    def path(self, name: str) -> Path:
        """Directory of a stored checkpoint. Raises NotFound, naming what is stored."""
        if not self.has(name):
            stored = ", ".join(self.names()) or "nothing yet"
            raise NotFound(f"model {name!r} is not in the store ({self._models} holds: {stored})")
        return self._models / name

    def manifest(self, name: str) -> Manifest:
        return read_manifest(self.path(name))

    def is_damaged(self, name: str) -> bool:
        """Whether the manifest of a stored checkpoint is no manifest."""
        try:
            self.manifest(name)
        except CheckpointDamaged:
            return True
        return False

    def names(self) -> list[str]:
        if not self._models.is_dir():
            return []
        return sorted(d.name for d in self._models.iterdir() if (d / MANIFEST_NAME).is_file())

    def whole(self, name: str, digest: str) -> Path | None:
        """Directory of the stored checkpoint of this name, if it has this content."""
        try:
            is_it = self.has(name) and self.manifest(name).digest == digest
        except CheckpointDamaged:
            return None
        return self.path(name) if is_it else None

    def partial(self, digest: str) -> Path:
        """Where the chunks of a checkpoint lie that is not here as a whole. Raises
        CheckpointError for what is no digest of a manifest."""
        if not _DIGEST.fullmatch(digest):
            raise CheckpointError(f"{digest!r} is no digest of a checkpoint with chunk hashes")
        return self._partial / digest

    def directories(self) -> tuple[Path, ...]:
        """Of all checkpoints, first the whole ones, then the partial ones."""
        return (*(self._models / name for name in self.names()), *self._partials())

    def drop_partials(self, name: str, keep: str = "") -> bool:
        """Delete what was fetched of a model, but for the checkpoint with the digest `keep`, and
        what the dead have left of any. False if there was nothing of the model."""
        for left in filter(_is_stale, self._halves()):
            _remove(left)
        doomed = [directory for directory in self._partials() if directory.name != keep]
        doomed = [directory for directory in doomed if _model_of(directory) == name]
        for directory in doomed:
            self.drop_partial(directory.name)
        return bool(doomed)

    def drop_partial(self, digest: str) -> None:
        """Delete what was fetched of one checkpoint. Out of sight by one rename first: whoever
        fetches it begins anew, and whoever is at it meets no half of it."""
        doomed = self._partial / f".{digest}-{secrets.token_hex(4)}"
        with suppress(FileNotFoundError):
            self.partial(digest).rename(doomed)
        _remove(doomed)

    def remove(self, name: str, timeout_s: float = LOCK_TIMEOUT_S) -> None:
        """Delete a checkpoint. Processes that have its files open keep them until they close."""
        with self.locked(name, timeout_s):
            if not self.drop_partials(name) or self.has(name):
                self._discard(self.path(name), name)

    @contextmanager
    def locked(
        self,
        name: str,
        timeout_s: float = LOCK_TIMEOUT_S,
        on_wait: Callable[[], None] = lambda: None,
    ) -> Iterator[None]:
        """Be the only process that adds or removes this name. Reentrant within `staging`.

        `on_wait` is called once if another process holds the lock. Raises DeadlineExceeded.
        """
        checked_name(name)
        try:
            self._locks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.home}: cannot be written: {error.strerror}") from error
        lock = FileLock(self._locks / f"{name}.lock", is_singleton=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            try:
                lock.acquire(timeout=timeout_s)
            except Timeout:
                raise DeadlineExceeded(
                    f"another process has been busy with model {name!r} for {timeout_s:.0f} s; "
                    "wait for it or end it, then try again"
                ) from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def staging(self, name: str, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[Path]:
        """An empty directory to build a checkpoint in, gone afterwards unless adopted."""
        with self.locked(name, timeout_s):
            directory = self._staging / name
            shutil.rmtree(directory, ignore_errors=True)
            (directory / "new").mkdir(parents=True)
            try:
                yield directory / "new"
            finally:
                shutil.rmtree(directory, ignore_errors=True)

    def downloads(self, name: str) -> Path:
        """Where `name` is downloaded to: kept when a download breaks. The caller holds the lock."""
        directory = self._downloads / checked_name(name)
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def adopt(self, staged: Path, name: str, source: str, on_progress: OnProgress = silent) -> Path:
        """Hash what was built in `staging(name)` and make it visible under its name at once.

        A checkpoint of that name is replaced. Returns the checkpoint's directory.
        """
        write_manifest(staged, describe(staged, name, source, on_progress))
        _flush_to_disk(staged)
        target = self._models / checked_name(name)
        self._models.mkdir(parents=True, exist_ok=True)
        if target.exists():
            self._discard(target, name)
        staged.rename(target)
        return target

    def clean(self) -> None:
        """Remove what dead processes left in staging; what a living one builds stays."""
        if not self._staging.is_dir():
            return
        for directory in self._staging.iterdir():
            try:
                with FileLock(self._locks / f"{directory.name}.lock").acquire(timeout=0):
                    shutil.rmtree(directory, ignore_errors=True)
            except Timeout:
                continue

    def _partials(self) -> tuple[Path, ...]:
        if not self._partial.is_dir():
            return ()
        here = (d for d in sorted(self._partial.iterdir()) if _DIGEST.fullmatch(d.name))
        needed = (MANIFEST_NAME, RECORD_NAME)
        return tuple(d for d in here if all((d / name).is_file() for name in needed))

    def _halves(self) -> Iterator[Path]:
        """What never became a partial checkpoint, or ceased to be one."""
        whole = self._partials()
        yield from (each for each in self._partial.glob("*") if each not in whole)
        yield from self._partial.glob("*/.manifest-*")

    def _discard(self, directory: Path, name: str) -> None:
        """Out of sight by one rename first, so that nobody sees a checkpoint half deleted."""
        doomed = self._staging / name / "old"
        shutil.rmtree(doomed, ignore_errors=True)
        doomed.parent.mkdir(parents=True, exist_ok=True)
        directory.rename(doomed)
        shutil.rmtree(doomed)
        if not any(doomed.parent.iterdir()):
            doomed.parent.rmdir()


def _model_of(directory: Path) -> str | None:
    try:
        return read_manifest(directory).name
    except CheckpointError:
        return None


def _is_stale(path: Path) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > STALE_S
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    """As far as that can be done."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush_to_disk(directory: Path) -> None:
    """A rename must not become durable before the bytes it names."""
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
