"""Two machines with Ray underneath, the real model over both, and a runner that is killed."""

from __future__ import annotations

import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paceline.cli.api import Api
from paceline.process.home import Home
from tests.support.cluster import Served
from tests.support.hosts import Host, hosts, why_no_hosts
from tests.support.models import smollm2_dir
from tests.support.streams import Stream, body, calm

pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(bool(why_no_hosts()), reason=why_no_hosts()),
]

PACELINE = [sys.executable, "-m", "paceline.cli.main"]
ROOT = Path(__file__).parents[2]
MEMORY = "1500MiB"
JOIN = re.compile(r"paceline join (\S+) --token (\S+)")
START_S = 60.0


class Machine:
    """A host with a home, where `paceline` is run as a person does."""

    def __init__(self, host: Host, base: Path, runtime: Path) -> None:
        self.host = host
        self.home = Home(base / host.name)
        self.home.create()
        self.home.models.symlink_to(smollm2_dir().parent)
        self.output = self.home.logs / "terminal.out"
        self._env = {
            "PYTHONPATH": str(ROOT),
            "PACELINE_HOME": str(self.home.path),
            "PACELINE_RUNTIME": str(runtime / host.name),
        }

    def start(self, *words: str) -> None:
        """`paceline` in the foreground of the machine's terminal."""
        self.host.start([*PACELINE, *words], self._env, self.output)

    def paceline(self, *words: str) -> str:
        """A command from another terminal of it."""
        done = self.host.run([*PACELINE, *words], self._env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def wait_ready(self) -> Api:
        info = _wait(self.home.read_run, lambda: self.output.read_text()[-2000:])
        return Api(info.url, info.api_key)


def _wait(look: Callable[[], Any], why: Callable[[], object]) -> Any:
    deadline = time.monotonic() + START_S
    while not (found := look()):
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Machine]]:
    base = tmp_path_factory.mktemp("hosts")
    with hosts(2) as made, tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        first, second = (Machine(host, base, Path(runtime)) for host in made)
        words = ("--host", first.host.address, "--node-memory", MEMORY, "--node", "first")
        first.start("up", "--cluster", "ray", *words)
        found = _wait(
            lambda: first.output.exists() and JOIN.search(first.output.read_text()),
            lambda: first.output.read_text(),
        )
        words = ("--token", found[2], "--node-memory", MEMORY, "--node", "second")
        second.start("join", found[1], *words)
        first.wait_ready()
        second.wait_ready()
        yield [first, second]


def _line(cluster: Served) -> str:
    """The instance over both machines, which all tests share."""
    cluster.wait("both nodes", lambda: len(cluster.api.get("/api/nodes")) == 2)
    for one in cluster.api.get("/api/instances"):
        return str(one["id"])
    return cluster.create(min_nodes=2, max_nodes=2)


def test_a_line_over_two_machines_answers_and_goes_on_after_a_kill(machines) -> None:
    first, second = machines
    cluster = Served(first.home, first.wait_ready())
    name = _line(cluster)
    epoch = cluster.ready(name)["epoch"]
    ranks = cluster.ranks(name)
    assert {rank["node"] for rank in ranks.values()} == {"first", "second"}
    assert "Paris" in cluster.ask()

    request = body(tokens=40)
    expected = calm(cluster, request)
    stream = Stream(cluster, request)
    stream.until(10)
    (lost,) = (rank for rank in ranks.values() if rank["node"] == "second")
    second.host.process(lost["pid"]).send_signal(signal.SIGKILL)
    assert stream.rest() == expected
    cluster.ready(name, after=epoch)
    said = [e["sentence"] for e in cluster.events() if lost["id"] in e["sentence"]]
    assert any("SIGKILL" in sentence for sentence in said), said


@pytest.mark.proof
def test_the_head_of_ray_dies_and_runners_elsewhere_live_on(machines) -> None:
    first, second = machines
    cluster = Served(first.home, first.wait_ready())
    name = _line(cluster)
    epoch = cluster.ready(name)["epoch"]
    before = {rank["node"]: rank["pid"] for rank in cluster.ranks(name).values()}
    (server,) = first.host.processes("gcs_server")
    server.kill()
    epoch = cluster.ready(name, after=epoch)["epoch"]
    after = {rank["node"]: rank["pid"] for rank in cluster.ranks(name).values()}
    assert after["second"] == before["second"]
    assert after["first"] != before["first"]
    # The blank one too: others have to come to life through the new head.
    for runner in second.host.processes("RunnerActor"):
        runner.kill()
    cluster.ready(name, after=epoch)
    assert "Paris" in cluster.ask()


@pytest.mark.proof
def test_any_machine_answers_for_all_and_may_leave(machines) -> None:
    first, second = machines
    cluster = Served(first.home, first.wait_ready())
    there = Served(second.home, second.wait_ready())
    cluster.ready(_line(cluster))
    assert "Paris" in there.ask()
    for one in cluster.api.get("/api/instances"):
        cluster.delete(one["id"])
    assert "left" in second.paceline("leave")
    second.host.wait()
    assert not second.home.membership.exists()
    (node,) = (one for one in cluster.api.get("/api/nodes") if one["name"] == "second")
    assert node["runners"] == []


def test_nothing_on_a_machine_outlives_its_parent(machines) -> None:
    first, _ = machines
    (parent,) = first.host.processes("paceline.cli.main up")
    assert len(first.host.processes()) > 8
    parent.kill()
    # What is left is what the host booted with.
    _wait(lambda: len(first.host.processes()) == 2, lambda: first.host.processes())
