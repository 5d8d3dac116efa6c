"""PACELINE_HOME: where things lie, who holds it, and where its cluster answers."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from paceline.process.files import read_struct, write_whole
from paceline.process.runtime import runtime_directory
from paceline.types.errors import Unavailable
from paceline.types.ids import fresh_id

HOME_VARIABLE = "PACELINE_HOME"


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where the running cluster of a home answers; its file is readable by the owner alone."""

    url: str
    pid: int
    cluster_id: str
    started_at: float
    """Unix seconds."""
    api_key: str | None = None


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a home."""

    pid: int
    since: str
    """Local time, for people."""


class Home:
    """One PACELINE_HOME. Nothing is made until it is asked for."""

    def __init__(self, path: Path | str | None = None) -> None:
        chosen = path or os.environ.get(HOME_VARIABLE) or "~/.paceline"
        self.path = Path(chosen).expanduser().absolute()
        self.models = self.path / "models"
        self.logs = self.path / "logs"
        self.store = self.path / "store.sqlite"
        self.api_key = self.path / "api-key"
        self.membership = self.path / "membership.json"
        self.ray = self.path / "ray"
        self._run = self.path / "run.json"
        self._lock = self.path / "lock"
        self._cluster_id = self.path / "cluster-id"

    def create(self) -> None:
        """Makes the directory, for its owner alone, and the one for logs. Raises Unavailable."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def log_file(self, role: str, name: str) -> Path:
        """The file that a process of this role and name logs to."""
        return self.logs / f"{role}-{name}.log"

    def runtime(self) -> Path:
        """The short private directory for the sockets of this home, made if need be."""
        return runtime_directory(self.path)

    def cluster_id(self) -> str:
        """Made once per home and never changed. Call it under `lock`. Raises Unavailable."""
        with suppress(FileNotFoundError):
            if known := self._cluster_id.read_text().strip():
                return known
        made = fresh_id("cluster")
        try:
            write_whole(self._cluster_id, f"{made}\n".encode())
        except OSError as error:
            raise self._unusable(error) from error
        return made

    def read_run(self) -> RunInfo | None:
        """Where the cluster said that it answers; it may have died since without a word."""
        return read_struct(self._run, RunInfo)

    def write_run(self, info: RunInfo) -> None:
        write_whole(self._run, msgspec.json.encode(info))

    def remove_run(self) -> None:
        self._run.unlink(missing_ok=True)

    def holder(self) -> Holder | None:
        """Who holds the home now, by the kernel's word. Raises Unavailable where that one could
        not write down who it is."""
        try:
            fd = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if holder := read_struct(self._lock, Holder):
                return holder
            raise Unavailable(self._refusal()) from None
        finally:
            os.close(fd)
        return None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the home for as long as this process lives or the block lasts.

        Raises Unavailable, naming the holder, when another process holds it, or when the
        directory cannot be written to. The lock is the
        kernel's and ends with its holder; the words in the file only say who that is.
        """
        self.create()
        try:
            fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Unavailable(self._refusal()) from None
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            words = msgspec.json.encode(Holder(pid=os.getpid(), since=since))
            # A full disk loses the words, not the lock.
            with suppress(OSError):
                os.ftruncate(fd, 0)
                os.pwrite(fd, words, 0)
            yield
        finally:
            os.close(fd)

    def _unusable(self, error: OSError) -> Unavailable:
        return Unavailable(
            f"cannot write to {self.path}: {error.strerror}; make room or set {HOME_VARIABLE} to "
            "a directory that you may write to"
        )

    def _refusal(self) -> str:
        holder, run = read_struct(self._lock, Holder), self.read_run()
        who = f"process {holder.pid}, since {holder.since}" if holder else "another process"
        where = f", at {run.url}" if holder and run and run.pid == holder.pid else ""
        return (
            f"{self.path} is held by {who}{where}; use that cluster, end it with "
            f"`paceline down`, or set {HOME_VARIABLE} to another directory"
        )
