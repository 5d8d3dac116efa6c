"""Several hosts on one machine: each has a network and processes of its own, joined by a bridge."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil

NETWORK = "10.77.0"
GONE_S = 10.0
RUN_S = 60.0


class Host:
    """`name` is its network namespace, `address` how the others and the test reach it."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
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

    def process(self, pid: int) -> psutil.Process:
        """The one that has this pid on the host itself."""
        (found,) = (process for process in self.processes() if _inner_pid(process.pid) == pid)
        return found

    def cut_power(self) -> None:
        """Everything on it is gone at once, without a word to anybody."""
        if self._init is not None:
            os.killpg(self._init.pid, signal.SIGKILL)
            self._init.wait(GONE_S)
            self._init = None
            self.wait()

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
        inside = ["ip", "netns", "exec", self.name]
        inside += ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return subprocess.Popen(
            [*inside, "bash", "-c", "while :; do sleep 1000; done"], start_new_session=True
        )


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """That many hosts, which reach each other and are reached from here; gone afterwards."""
    mark = f"pl{os.getpid() % 100_000}"
    bridge = f"{mark}b"
    names = [f"{mark}h{number}" for number in range(1, count + 1)]
    made = [Host(name, f"{NETWORK}.{number}") for number, name in enumerate(names, 1)]
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{NETWORK}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for host in made:
            _plug_in(host, bridge)
        yield made
    finally:
        for host in made:
            host.cut_power()
            _ip("netns", "del", host.name, may_fail=True)
        _ip("link", "del", bridge, may_fail=True)


@cache
def why_no_hosts() -> str:
    """What keeps this machine from having hosts; empty if nothing does."""
    missing = [tool for tool in ("ip", "unshare", "nsenter") if shutil.which(tool) is None]
    if missing:
        return f"the programs {' and '.join(missing)} are not installed"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with hosts(1) as (host,):
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


def _plug_in(host: Host, bridge: str) -> None:
    outside, inside = f"{host.name}o", f"{host.name}i"
    _ip("netns", "add", host.name)
    _ip("link", "add", outside, "type", "veth", "peer", "name", inside)
    _ip("link", "set", inside, "netns", host.name)
    _ip("link", "set", outside, "master", bridge, "up")
    for words in (
        ["link", "set", "lo", "up"],
        ["addr", "add", f"{host.address}/24", "dev", inside],
        ["link", "set", inside, "up"],
        ["route", "add", "default", "via", f"{NETWORK}.254"],
    ):
        _ip("-n", host.name, *words)


def _ip(*words: str, may_fail: bool = False) -> None:
    subprocess.run(["ip", *words], check=not may_fail, capture_output=True)
