"""Several hosts on one machine: each has a network and processes of its own, joined by a bridge."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Protocol

import psutil

NETWORK = f"10.{64 + os.getpid() // 250 % 64}.{os.getpid() % 250}"
"""Not that of another run on this machine."""
GONE_S = 10.0
RUN_S = 60.0


class Network(Protocol):
    """What joins hosts to each other and to us."""

    def connect(self, host: Host) -> None:
        """Gives it a namespace, which is named as the host, with its address and a cable."""
        ...

    def disconnect(self, host: Host) -> None:
        """From now on nothing leaves it, not even what its kernel would like to say."""
        ...


class Host:
    """`name` is its network namespace, `address` how the others and the test reach it. It boots
    with the first command."""

    def __init__(self, name: str, address: str, network: Network) -> None:
        self.name = name
        self.address = address
        self._network = network
        self._init: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, argv: Sequence[str], env: Mapping[str, str], output: Path) -> None:
        """A command that goes on."""
        with output.open("ab") as file:
            process = subprocess.Popen(
                [*self._inside(), *argv],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,
            )
        self._started.append(process)

    def run(self, argv: Sequence[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """A command that comes to its end."""
        return subprocess.run(
            [*self._inside(), *argv],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=RUN_S,
        )

    def wait(self, timeout_s: float = GONE_S) -> None:
        """Until the commands that were to go on have ended."""
        for process in self._started:
            process.wait(timeout_s)
        self._started.clear()

    def processes(self, words: str = "") -> list[psutil.Process]:
        """Those on this host whose command line has `words`; their pids are ours, not its own."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if _namespace(process.pid) == self._namespace:
                    found += [process] if words in " ".join(process.cmdline()) else []
        return found

    def pids(self, words: str) -> set[int]:
        """The same, by the pids that they have on the host."""
        return {_inner_pid(process.pid) for process in self.processes(words)} - {0}

    def process(self, pid: int) -> psutil.Process:
        """The one that has this pid on the host itself."""
        (found,) = (process for process in self.processes() if _inner_pid(process.pid) == pid)
        return found

    def cut_power(self) -> None:
        """Everything on it is gone at once, without a word to anybody: no goodbye of TCP either.
        The next command boots it again."""
        if self._init is not None:
            self._network.disconnect(self)
            os.killpg(self._init.pid, signal.SIGKILL)
            self._init.wait(GONE_S)
            self._init = None
            self.wait()
            ip("netns", "del", self.name)

    @contextmanager
    def cut_from(self, other: Host) -> Iterator[None]:
        """Whatever one sends to the other is lost, and neither is told."""
        for a, b in ((self, other), (other, self)):
            _drop(a, b, "add")
        try:
            yield
        finally:
            for a, b in ((self, other), (other, self)):
                _drop(a, b, "del")

    def _inside(self) -> list[str]:
        """What comes before a command that is to run here; the first one boots the host."""
        if self._init is None:
            self._init = self._boot()
            self._first = _first_process(self._init.pid)
            self._namespace = _namespace(self._first)
        return ["nsenter", "--target", str(self._first), "--pid", "--net", "--mount"]

    def _boot(self) -> subprocess.Popen[bytes]:
        """Its pid 1, with a /proc of its own: a shell, for one that buries whoever has no parent.
        When it goes, the kernel ends all that is in its namespace."""
        self._network.connect(self)
        inside = ["ip", "netns", "exec", self.name]
        inside += ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        # Its power goes with ours, however that happens.
        with_us = ["setpriv", "--pdeathsig", "KILL"]
        return subprocess.Popen(
            [*with_us, *inside, "bash", "-c", "while :; do sleep 1000; done"],
            start_new_session=True,
        )


class Bridge:
    """Cables of no length, and a switch between them."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> Bridge:
        # Of its own: else it takes a cable's, and another when that goes, which tells nobody.
        ip("link", "add", self._name, "address", "02:00:0a:4d:00:fe", "type", "bridge")
        ip("addr", "add", f"{NETWORK}.254/24", "dev", self._name)
        ip("link", "set", self._name, "up")
        return self

    def __exit__(self, *_: object) -> None:
        ip("link", "del", self._name, may_fail=True)

    def connect(self, host: Host) -> None:
        inside = f"{host.name}i"
        ip("netns", "add", host.name)
        ip("link", "add", _outer(host), "type", "veth", "peer", "name", inside)
        # It has the same one after a power cut, as machines do.
        card = f"02:00:0a:4d:00:{int(host.address.rpartition('.')[2]):02x}"
        ip("link", "set", inside, "netns", host.name, "address", card)
        ip("link", "set", _outer(host), "master", self._name, "up")
        set_up(host, inside)

    def disconnect(self, host: Host) -> None:
        ip("link", "del", _outer(host))

    def pull(self, host: Host) -> None:
        """Its cable."""
        ip("link", "set", _outer(host), "down")

    def plug_in(self, host: Host) -> None:
        ip("link", "set", _outer(host), "up")


@contextmanager
def hosts(count: int, network: Network) -> Iterator[list[Host]]:
    """That many hosts, which reach each other and are reached from here; gone afterwards."""
    _sweep()
    names = [f"{mark()}h{number}" for number in range(1, count + 1)]
    made = [Host(name, f"{NETWORK}.{number}", network) for number, name in enumerate(names, 1)]
    try:
        yield made
    finally:
        for host in made:
            host.cut_power()


def bridge() -> Bridge:
    return Bridge(f"{mark()}b")


def mark() -> str:
    """What the names of this process's namespaces and cables begin with."""
    return f"pl{os.getpid()}"


def set_up(host: Host, cable: str) -> None:
    """Its end of the cable, which is in its namespace."""
    for words in (
        ["link", "set", "lo", "up"],
        ["addr", "add", f"{host.address}/24", "dev", cable],
        ["link", "set", cable, "up"],
        ["route", "add", "default", "via", f"{NETWORK}.254"],
        # What is ours is looked at after what is to be dropped.
        ["rule", "add", "pref", "20", "lookup", "local"],
        ["rule", "del", "pref", "0"],
    ):
        ip("-n", host.name, *words)


@cache
def why_no_hosts() -> str:
    """What keeps this machine from having hosts; empty if nothing does."""
    missing = [
        tool for tool in ("ip", "unshare", "nsenter", "setpriv") if shutil.which(tool) is None
    ]
    if missing:
        return f"the programs {' and '.join(missing)} are not installed"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with bridge() as network, hosts(1, network) as (host,):
            done = host.run(["true"], {})
    except (OSError, AssertionError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"") or b""
        return f"this kernel does not let us make hosts: {said.decode().strip() or error}"
    if done.returncode != 0:
        return f"this kernel does not let us enter hosts: {done.stderr.strip()}"
    return ""


def _first_process(pid: int) -> int:
    """What `unshare`, which has this pid, has forked or is about to."""
    deadline = time.monotonic() + GONE_S
    while True:
        for child in psutil.Process(pid).children():
            if _inner_pid(child.pid) == 1:
                return child.pid
        assert time.monotonic() < deadline, f"{pid} has not booted its host"
        time.sleep(0.01)


def _namespace(pid: int) -> int:
    return Path(f"/proc/{pid}/ns/pid").stat().st_ino


def _inner_pid(pid: int) -> int:
    """Its pid in its innermost namespace; 0 if it is gone (proc(5), NSpid)."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return 0


def _sweep() -> None:
    """What a test left that had no time to clear away."""
    named = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    bridges = (path.name for path in Path("/sys/class/net").iterdir())
    for name in (*(line.split()[0] for line in named.splitlines()), *bridges):
        left = re.fullmatch(r"pl(\d+)(b|h\d+)", name)
        if left and not psutil.pid_exists(int(left[1])):
            ip(*(("link", "del") if left[2] == "b" else ("netns", "del")), name, may_fail=True)


def _drop(host: Host, sender: Host, verb: str) -> None:
    """What comes in from there, before anybody sees it."""
    ip("-n", host.name, "rule", verb, "pref", "10", "from", sender.address, "blackhole")


def _outer(host: Host) -> str:
    return f"{host.name}o"


def ip(*words: str, may_fail: bool = False) -> None:
    subprocess.run(["ip", *words], check=not may_fail, capture_output=True)
