"""Machines of a Ray cluster: hosts with a home each, where `paceline` is run as a person does."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paceline.cli.api import Api
from paceline.process.home import Home
from tests.support.cluster import Served
from tests.support.hosts import Host, Network, hosts
from tests.support.models import smollm2_dir

PACELINE = (sys.executable, "-m", "paceline.cli.main")
ROOT = Path(__file__).parents[2]
NAMES = ("first", "second", "third")
MEMORY = "1500MiB"
JOIN = re.compile(r"PACELINE_TOKEN=(\S+) paceline join (\S+)")
START_S = 60.0


class Machine:
    """One that has not been started yet. `name` is its node's."""

    def __init__(self, name: str, host: Host, base: Path, runtime: Path) -> None:
        self.name = name
        self.host = host
        self.home = Home(base / name)
        self.output = base / f"{name}.out"
        self.env: dict[str, str] = {}
        """Added to what its commands have."""
        self.runtime = runtime / name
        self.format()
        self.home.models.symlink_to(smollm2_dir().parent)

    def format(self) -> None:
        """An empty disk, without any model."""
        for path in (self.home.path, self.runtime):
            shutil.rmtree(path, ignore_errors=True)
        self.home.create()

    def start(self, *words: str) -> None:
        """`paceline` in the foreground of the machine's terminal."""
        self.output.write_bytes(b"")
        self.host.start([*PACELINE, *words], self._env(), self.output)

    def run_beside(self, argv: Sequence[str], output: str) -> None:
        """Something else that goes on there."""
        self.host.start(argv, self._env(), self.home.path / output)

    def paceline(self, *words: str) -> str:
        """A command from another terminal of it."""
        done = self.host.run([*PACELINE, *words], self._env())
        assert done.returncode == 0, done.stderr
        return done.stdout

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def wait_ready(self) -> Api:
        """Its gateway, once that answers."""
        info = _wait(self.home.read_run, self.said)
        return Api(info.url, info.api_key)

    def runners(self) -> set[int]:
        """The pids, on the machine, of the processes that are its runners."""
        return self.host.pids("RunnerActor")

    def _env(self) -> Mapping[str, str]:
        return self.env | {
            "PYTHONPATH": str(ROOT),
            "PACELINE_HOME": str(self.home.path),
            "PACELINE_RUNTIME": str(self.runtime),
        }


class Fleet(Served):
    """A cluster of machines, the head before the others. `api` is the head's gateway, until another
    is chosen."""

    def __init__(self, machines: Sequence[Machine], network: Any) -> None:
        self.machines = {machine.name: machine for machine in machines}
        self.network = network
        self.head, *others = machines
        self.start_head()
        found = _wait(lambda: JOIN.search(self.head.said()), self.head.said)
        self._joining = ("join", found[2], "--token", found[1])
        super().__init__(self.head.home, self.head.wait_ready())
        for other in others:
            self.join(other)
        self.wait_nodes(*self.machines)

    def start_head(self) -> None:
        self._start(self.head, "up", "--cluster", "ray")

    def join(self, machine: Machine) -> None:
        """With the token, as if for the first time."""
        self._start(machine, *self._joining)

    def _start(self, machine: Machine, *words: str) -> None:
        own = ("--host", machine.host.address, "--node", machine.name, "--node-memory", MEMORY)
        machine.start(*words, *own)

    def through(self, name: str) -> Api:
        """The gateway of that machine."""
        return self.machines[name].wait_ready()

    def nodes(self) -> dict[str, str]:
        """The state of each."""
        return {node["name"]: node["state"] for node in self.api.get("/api/nodes")}

    def wait_nodes(self, *names: str, state: str = "ready") -> None:
        def all_are() -> bool:
            found = self.nodes()
            return all(found.get(name) == state for name in names)

        self.wait(f"{', '.join(names)} to be {state}", all_are)

    def drain(self, name: str) -> None:
        self.api.post(f"/api/nodes/{name}/drain", {})

    def open_again(self, name: str) -> None:
        self.api.delete(f"/api/nodes/{name}/drain")


@contextmanager
def fleet(
    base: Path, network: Network, count: int = 3, kind: type[Fleet] = Fleet
) -> Iterator[Fleet]:
    """That many machines, and a cluster on them that is ready."""
    with (
        hosts(count, network) as made,
        # Sockets have short paths.
        tempfile.TemporaryDirectory(dir="/tmp") as runtime,
    ):
        machines = [
            Machine(name, host, base, Path(runtime))
            for name, host in zip(NAMES, made, strict=False)
        ]
        yield kind(machines, network)


def _wait(look: Callable[[], Any], why: Callable[[], str]) -> Any:
    deadline = time.monotonic() + START_S
    while not (found := look()):
        assert time.monotonic() < deadline, why()[-2000:]
        time.sleep(0.05)
    return found
