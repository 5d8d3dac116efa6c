"""Who can reach an address, and the key that is asked for where others can."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from typing import NamedTuple

from paceline.process.files import write_whole
from paceline.process.home import Home
from paceline.types.errors import InvalidRequest, Unavailable

API_KEY_VARIABLE = "PACELINE_API_KEY"
"""How processes are told the key: not on the command line, which others can read."""
KEY_BYTES = 32


class ApiKey(NamedTuple):
    text: str
    is_new: bool
    """Made just now: whoever starts the cluster has not seen it yet."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there. Raises InvalidRequest for what is
    no address."""
    if not host:
        return False
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{host!r} is no address to listen at: {error}") from error
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def check_exposure(host: str, api_key: str | None) -> None:
    """Raises InvalidRequest for an address that others reach without a key being asked for."""
    if not api_key and not is_loopback(host):
        raise InvalidRequest(
            f"everyone who reaches {host} could use and end this cluster: give an API key "
            f"({API_KEY_VARIABLE}), or listen at 127.0.0.1"
        )


def kept_api_key(home: Home) -> ApiKey:
    """The key of this home, made once and readable by its owner alone. Raises Unavailable."""
    path = home.api_key
    try:
        if path.exists() and (kept := path.read_text().strip()):
            if path.stat().st_mode & 0o077:
                raise Unavailable(
                    f"{path} is open to others: remove it for a new key, or run `chmod 600 {path}`"
                )
            return ApiKey(kept, is_new=False)
        made = f"pl-{secrets.token_urlsafe(KEY_BYTES)}"
        write_whole(path, f"{made}\n".encode())
    except OSError as error:
        raise Unavailable(f"cannot keep an API key in {path}: {error.strerror}") from error
    return ApiKey(made, is_new=True)
