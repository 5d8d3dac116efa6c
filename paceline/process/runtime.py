"""The runtime directory: sockets of one home, under a path short enough for a unix socket.

It lies in /tmp and not in XDG_RUNTIME_DIR, which is wiped at the user's last logout while a
cluster may run on.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from paceline.types.errors import InvalidRequest, Unavailable

RUNTIME_VARIABLE = "PACELINE_RUNTIME"
MAX_SOCKET_PATH = 107
"""Bytes in sun_path (unix(7)), less the closing zero."""

_SETTLED_S = 5.0
_UNIX_SOCKETS = Path("/proc/net/unix")


def runtime_directory(home: Path) -> Path:
    """A directory that is the same for the same home and private to this user; made if need be.

    Raises Unavailable if somebody else owns what lies there, or others may enter it.
    """
    base = os.environ.get(RUNTIME_VARIABLE) or f"/tmp/paceline-{os.geteuid()}"
    directory = Path(base) / hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:8]
    for level in (directory.parent, directory):
        _make_private(level)
    return directory


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise Unavailable(
            f"cannot make {directory}: {error.strerror}; set {RUNTIME_VARIABLE} to a short "
            "directory that you may write to"
        ) from error
    # lstat: a symbolic link that someone laid here is not our directory, wherever it leads.
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise Unavailable(
            f"{directory} is not a directory of yours; remove it, or set {RUNTIME_VARIABLE} to "
            "a short directory of your own"
        )
    if found.st_mode & 0o077:
        raise Unavailable(f"{directory} is open to others; run `chmod 700 {directory}`")


def ipc_address(runtime: Path, name: str) -> str:
    """The ZeroMQ address of the socket `name`. Raises InvalidRequest if its path is too long."""
    path = runtime / name
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise InvalidRequest(
            f"the socket path {path} is longer than {MAX_SOCKET_PATH} bytes; set "
            f"{RUNTIME_VARIABLE} to a shorter directory"
        )
    return f"ipc://{path}"


def control_address(runtime: Path) -> str:
    """Where the controller of a runtime directory answers. Raises InvalidRequest."""
    return ipc_address(runtime, "control")


def remove_sockets(runtime: Path) -> None:
    """Removes every socket file. Only for the holder of the home, when nobody else is alive."""
    for path in _sockets(runtime):
        path.unlink(missing_ok=True)


def sweep_sockets(runtime: Path) -> list[Path]:
    """Removes the socket files that no living process has bound, and returns them.

    What a killed process leaves behind. A socket's file is there a moment before the kernel
    lists it, hence only files that have settled are looked at; and a kernel that lists none of
    this directory may well be one that lists none at all, hence then nothing is removed.
    """
    bound = _bound_paths()
    if not any(path.startswith(f"{runtime}/") for path in bound):
        return []
    swept = []
    for path in _sockets(runtime):
        with suppress(FileNotFoundError):
            settled = time.time() - path.lstat().st_mtime > _SETTLED_S
            if settled and str(path) not in bound:
                path.unlink()
                swept.append(path)
    return swept


def _bound_paths() -> set[str]:
    """Of all living sockets: the eighth column, where there is one (proc(5))."""
    try:
        rows = [line.split(maxsplit=7) for line in _UNIX_SOCKETS.read_text().splitlines()]
    except OSError:
        return set()
    return {row[7] for row in rows if len(row) == 8}


def _sockets(runtime: Path) -> list[Path]:
    try:
        return [path for path in runtime.iterdir() if path.is_socket()]
    except OSError:
        return []
