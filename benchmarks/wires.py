"""Cables of a length: what hosts send each other arrives so much later, in order, undamaged.

A network device of each host (tun(4)) ends in one process, which holds every packet back.

    python -m benchmarks.wires FD=ADDRESS …      # delays in seconds, one a line, on its stdin

The first end is ours: to and from there nothing is held back.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic

from tests.support.hosts import NETWORK, Host, ip, mark, set_up

DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
MTU = 1500
DESTINATION = slice(16, 20)
"""Of an IPv4 packet (RFC 791)."""
HERE = f"{NETWORK}.254"
PRIORITY = -10
"""Whoever computes must not make the cables longer."""


class Wires:
    """The `Network` of hosts; from here to each of them there is no delay."""

    def __init__(self, count: int) -> None:
        """For up to so many hosts."""
        self._cables = [f"{mark()}t{number}" for number in range(count + 1)]
        self._cable_of: dict[str, str] = {}

    def __enter__(self) -> Wires:
        devices = [_device(cable) for cable in self._cables]
        addresses = [HERE, *(f"{NETWORK}.{number}" for number in range(1, len(devices)))]
        ends = [f"{fd}={address}" for fd, address in zip(devices, addresses, strict=True)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.wires", *ends],
            stdin=subprocess.PIPE,
            pass_fds=devices,
            text=True,
        )
        for fd in devices:
            os.close(fd)
        try:
            here = self._cables[0]
            ip("addr", "add", f"{HERE}/24", "dev", here)
            ip("link", "set", here, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def delay(self, seconds: float) -> None:
        """One way, for whatever is sent from now on."""
        assert self._process.stdin is not None
        print(seconds, file=self._process.stdin, flush=True)

    def connect(self, host: Host) -> None:
        cable = self._cable_of[host.name] = self._cables[int(host.address.rpartition(".")[2])]
        ip("netns", "add", host.name)
        ip("link", "set", cable, "netns", host.name)
        set_up(host, cable)

    def disconnect(self, host: Host) -> None:
        ip("-n", host.name, "link", "set", self._cable_of[host.name], "down")


def why_no_wires() -> str:
    """What keeps this machine from having them; empty if nothing does."""
    try:
        os.close(os.open(DEVICE, os.O_RDWR))
    except OSError as error:
        return f"this kernel has no {DEVICE} for us: {error}"
    return ""


def _device(name: str) -> int:
    fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    ip("link", "set", name, "mtu", str(MTU))
    return fd


def carry(ends: dict[bytes, int]) -> None:
    """Packets from each end to the one that they are for, by address, until stdin is closed."""
    here = next(iter(ends.values()))
    waiting: deque[tuple[float, int, bytes]] = deque()
    delay_s = 0.0
    commands = sys.stdin.fileno()
    while True:
        timeout = max(0.0, waiting[0][0] - monotonic()) if waiting else None
        ready, _, _ = select.select([commands, *ends.values()], [], [], timeout)
        now = monotonic()
        for fd in ready:
            if fd == commands:
                words = os.read(commands, 4096).decode().split()
                if not words:
                    return
                delay_s = float(words[-1])
                continue
            for packet in _packets(fd):
                to = ends.get(packet[DESTINATION])
                if to is None:
                    continue
                if here in (fd, to) or not delay_s:
                    _write(to, packet)
                else:
                    waiting.append((now + delay_s, to, packet))
        while waiting and waiting[0][0] <= monotonic():
            _write(*waiting.popleft()[1:])


def _packets(fd: int) -> list[bytes]:
    """All that are there."""
    found: list[bytes] = []
    with suppress(OSError):
        while len(found) < 64:
            found.append(os.read(fd, 65536))
    return found


def _write(fd: int, packet: bytes) -> None:
    """One for a host that is down or slow is lost."""
    with suppress(OSError):
        os.write(fd, packet)


def _bytes(address: str) -> bytes:
    return bytes(map(int, address.split(".")))


def main(ends: Sequence[str]) -> None:
    with suppress(OSError):
        os.nice(PRIORITY)
    pairs = (end.split("=") for end in ends)
    carry({_bytes(address): int(fd) for fd, address in pairs})


if __name__ == "__main__":
    main(sys.argv[1:])
