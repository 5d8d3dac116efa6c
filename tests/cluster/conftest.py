from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from paceline.cluster.agents import AgentCluster
from paceline.cluster.base import Cluster
from paceline.cluster.parent.port import held_port
from paceline.cluster.ray.environment import PURPOSE, ray_environment
from paceline.process.home import Home
from paceline.process.runtime import control_address
from paceline.process.spawn import Child
from paceline.transport.control import ControlServer
from paceline.transport.membership import Membership
from paceline.types.control import NodeBeat
from paceline.types.facts import NodeFacts
from paceline.types.ids import NodeName

PROGRAMS = Path(__file__).parent / "programs"
ROOT = str(Path(__file__).parents[2])
NODE = NodeName("node-1")
MEMORY = 1000
START_S = 60.0
"""Ray's own start on a machine that has other work."""


def program(name: str) -> tuple[str, ...]:
    return (sys.executable, str(PROGRAMS / f"{name}.py"))


def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Harness(Protocol):
    """One node, called NODE, that offers MEMORY bytes; runners behave as `programs/runner.py`
    does, by the first word of their names."""

    cluster: Cluster

    def facts(self) -> NodeFacts:
        """The newest facts of NODE; waits for the first."""

    def lose_node(self) -> None:
        """Kills the node's agent."""

    def start_node(self) -> None:
        """Brings NODE up (again, as another incarnation)."""

    def stop_node(self) -> None:
        """Asks the node's agent to end, and waits for that."""


class AgentHarness:
    """Listens as a controller does to the agent that `argv` starts."""

    def __init__(
        self, home: Path, runtime: Path, argv: Sequence[str], env: Mapping[str, str] | None = None
    ) -> None:
        membership = Membership.of_head(Home(home))
        self._control = ControlServer(control_address(runtime), membership)
        self.cluster: Cluster = AgentCluster(self._control.send)
        self._argv = [*argv, "--home", str(home), "--runtime", str(runtime)]
        self._argv += ["--cluster-id", "cluster-test", "--node", NODE, "--memory", str(MEMORY)]
        self._argv += ["--threads", "1"]
        self._env = env
        self._newest: NodeFacts | None = None
        self._agent: Child | None = None

    def facts(self) -> NodeFacts:
        self._listen(0.02)
        until(self._has_heard, START_S)
        assert self._newest is not None
        return self._newest

    def start_node(self) -> None:
        self._newest = None
        self._agent = Child(self._argv, name=NODE, env=self._env)

    def lose_node(self) -> None:
        assert self._agent is not None
        self._agent.kill("the node is lost")
        assert self._agent.wait(10)

    def stop_node(self) -> None:
        assert self._agent is not None
        self._agent.terminate(3.0, "the node ends", signal.SIGINT)
        ended = self._agent.wait(10)
        assert ended is not None
        assert ended.code == 0, ended

    def close(self) -> None:
        self.lose_node()
        self._control.close()

    def _has_heard(self) -> bool:
        self._listen(0.02)
        return self._newest is not None

    def _listen(self, timeout_s: float) -> None:
        for peer, message in self._control.receive(timeout_s):
            assert isinstance(message, NodeBeat)
            assert peer == f"node:{NODE}:{message.facts.incarnation}"
            self._newest = message.facts


class RayOfOne:
    """`ray start` as `paceline up` has it, with one home for all of a module's tests."""

    def __init__(self, home: Home, temp: Path) -> None:
        self._home, self._temp = home, temp
        self._env = ray_environment(Membership.of_head(home).derived(PURPOSE))
        home.ray.mkdir()
        with held_port("127.0.0.1", 0) as port:
            self._address = f"127.0.0.1:{port}"
        argv = [sys.executable, "-m", "paceline.cluster.ray.start", "--home", str(home.path)]
        argv += ["--temp", str(temp / "ray"), "--host", "127.0.0.1", "--port", str(port)]
        output = home.logs / "ray.out"
        self._child = Child(argv, name="ray", output=output, env=self._env, kernel_kills=False)
        self._made = 0
        self._next = self._harness()

    def harness(self) -> AgentHarness:
        """One whose agent has had time to connect to Ray: it was started with the one before."""
        now, self._next = self._next, self._harness()
        return now

    def close(self) -> None:
        self._next.close()
        self._child.kill("the tests are done")
        assert self._child.wait(10)

    def _harness(self) -> AgentHarness:
        self._made += 1
        runtime = self._temp / str(self._made)
        runtime.mkdir()
        argv = [sys.executable, "-m", "paceline.cluster.ray.agent", "--ray", self._address]
        argv += ["--runner", str(PROGRAMS / "runner.py")]
        made = AgentHarness(self._home.path, runtime, argv, self._env)
        made.start_node()
        return made


@pytest.fixture(autouse=True)
def _programs_find_paceline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ROOT)


@pytest.fixture
def runtime() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        yield Path(short)


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayOfOne]:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    home = Home(tmp_path_factory.mktemp("ray"))
    home.create()
    with tempfile.TemporaryDirectory(dir="/tmp") as temp, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", ROOT)
        made = RayOfOne(home, Path(temp))
        yield made
        made.close()


def _local(request: pytest.FixtureRequest) -> AgentHarness:
    home = Home(request.getfixturevalue("tmp_path") / "home")
    home.create()
    argv = [sys.executable, "-m", "paceline.cluster.local.supervisor"]
    argv += ["--runner", " ".join(program("runner"))]
    made = AgentHarness(home.path, request.getfixturevalue("runtime"), argv)
    made.start_node()
    return made


def _ray(request: pytest.FixtureRequest) -> AgentHarness:
    ray: RayOfOne = request.getfixturevalue("ray")
    return ray.harness()


HARNESSES = {"local": _local, "ray": _ray}


@pytest.fixture(params=list(HARNESSES))
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    made = HARNESSES[request.param](request)
    yield made
    made.close()
