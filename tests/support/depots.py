"""Depots that serve as they should, and some that do not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from paceline.checkpoint import Store
from paceline.checkpoint.partial import Chunks
from paceline.checkpoint.shelf import Shelf
from paceline.transport.depot import Depot
from paceline.transport.keys import KeyPair
from paceline.types.weights import HeldCheckpoint, Source

MEMBER = KeyPair.fresh()


class Asked:
    """A shelf, and what was asked of it."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.chunks: list[tuple[int, int]] = []
        self.bytes = 0

    def look(self) -> tuple[HeldCheckpoint, ...]:
        return self.shelf.look()

    def show(self, digest: str) -> tuple[bytes, Chunks] | None:
        return self.shelf.show(digest)

    def chunk(self, digest: str, file: int, chunk: int) -> bytes | None:
        self.chunks.append((file, chunk))
        data = self.shelf.chunk(digest, file, chunk)
        self.bytes += len(data or b"")
        return data


class Liar(Asked):
    """The right length, and other bytes."""

    def chunk(self, digest: str, file: int, chunk: int) -> bytes | None:
        data = super().chunk(digest, file, chunk)
        return None if data is None else bytes([data[0] ^ 1]) + data[1:]


class Forger(Asked):
    """A manifest of its own, that says it is the one that is asked for."""

    def show(self, digest: str) -> tuple[bytes, Chunks] | None:
        shown = super().show(digest)
        return None if shown is None else (shown[0].replace(b"config.json", b"donfig.json"), {})


class Slow(Asked):
    def chunk(self, digest: str, file: int, chunk: int) -> bytes | None:
        time.sleep(0.4)
        return super().chunk(digest, file, chunk)


class Forgetful(Asked):
    """It says that it has all, and has nothing."""

    def chunk(self, digest: str, file: int, chunk: int) -> bytes | None:
        self.chunks.append((file, chunk))
        return None


class Mute(Asked):
    """From the fifth chunk on it says nothing: as a host that lost its power."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__(shelf)
        self.released = threading.Event()

    def chunk(self, digest: str, file: int, chunk: int) -> bytes | None:
        if len(self.chunks) >= 5:
            self.released.wait(60)
            return None
        return super().chunk(digest, file, chunk)


class Nodes:
    """Depots on this machine."""

    def __init__(self, home: Path, runtime: Path, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._home, self._runtime, self._context = home, runtime, context
        self.depots: list[Depot] = []

    def open(
        self,
        kind: Callable[[Shelf], Asked] = Asked,
        home: Path | None = None,
        member: KeyPair = MEMBER,
        host: str | None = None,
    ) -> tuple[Source, Asked]:
        shelf = kind(Shelf(Store(home or self._home)))
        directory = None if host else self._runtime
        depot = Depot.open(
            KeyPair.fresh(), [member.public], shelf,
            directory=directory, host=host, context=self._context,
        )  # fmt: skip
        self.depots.append(depot)
        return Source(node=f"n{len(self.depots)}", depot=depot.offer), shelf

    def close(self) -> None:
        for depot in self.depots:
            depot.close()
