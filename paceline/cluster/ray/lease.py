"""The lease between an agent and a runner whose parent is Ray: a local socket from birth to death.

It stands in for what a parent has of a child: each end sees by it that the other is gone, the
runner's output comes through it, and so does the code with which it ends.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from paceline.process.logs import get_logger
from paceline.process.runtime import ipc_address

BACKLOG = 64
SIGN_IN_S = 5.0
"""How long one that connects may take to say who it is."""
NAME_BYTES = 256

_CREDENTIALS = struct.Struct("3i")

log = get_logger(__name__)


class SignedIn:
    """A runner as its agent has it: `output` is the reading end of its stdout and stderr."""

    def __init__(self, name: str, life: socket.socket, pid: int, output: int) -> None:
        self.name = name
        self.pid = pid
        self.output = output
        self._life = life

    def open_pidfd(self) -> int | None:
        """A handle on its process; None if that is gone, and its pid perhaps another's already."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        # Whoever holds the other end now is the one that had the pid when it was opened.
        poll = select.poll()
        poll.register(self._life, 0)
        if poll.poll(0):
            os.close(pidfd)
            return None
        return pidfd

    def last_code(self) -> int | None:
        """The code that it said it ends with; None if it did not come to that. Never waits."""
        with suppress(OSError, ValueError):
            return int(self._life.recv(64))
        return None

    def close(self) -> None:
        self._life.close()

    def turn_away(self) -> None:
        """Nobody will listen to it: it ends, as if its agent were gone."""
        os.close(self.output)
        self.close()


class Leases:
    """The agent's end. `on_signed_in` is called on a thread of its own, once per runner."""

    def __init__(self, path: Path, on_signed_in: Callable[[SignedIn], None]) -> None:
        """Listens at `path`, in a directory that only its owner can enter. Raises InvalidRequest
        if that is too long for a socket."""
        ipc_address(path.parent, path.name)
        self.path = path
        self._on_signed_in = on_signed_in
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path.unlink(missing_ok=True)
        self._door.bind(str(path))
        self._door.listen(BACKLOG)
        threading.Thread(target=self._serve, name="leases", daemon=True).start()

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
        self._door.close()

    def _serve(self) -> None:
        while True:
            try:
                life, _ = self._door.accept()
            except OSError:
                return
            try:
                signed_in = _greet(life)
            except (OSError, ValueError) as error:
                log.warning("a runner could not sign in", why=str(error))
                life.close()
            else:
                self._on_signed_in(signed_in)


def sign_in(path: str, name: str) -> tuple[socket.socket, int]:
    """The runner's end: the lease, and the writing end of a pipe to the agent for its output.

    Raises OSError when the agent is gone."""
    life = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    life.settimeout(SIGN_IN_S)
    life.connect(path)
    reading, writing = os.pipe()
    try:
        socket.send_fds(life, [name.encode()], [reading])
    finally:
        os.close(reading)
    life.settimeout(None)
    return life, writing


def peer_pid(end: socket.socket) -> int:
    """The process at the other end of a local socket, at the time when it connected or listened."""
    packed = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(packed)
    return int(pid)


def _greet(life: socket.socket) -> SignedIn:
    life.settimeout(SIGN_IN_S)
    said, (output, *_), _, _ = socket.recv_fds(life, NAME_BYTES, 1)
    life.setblocking(False)
    return SignedIn(said.decode(), life, peer_pid(life), output)
