"""Two machines whose Ray somebody else has started and looks after."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.support.hosts import bridge, why_no_hosts
from tests.support.machines import Fleet, Machine, fleet

pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_no_hosts()), reason=why_no_hosts()),
]

RAY_START = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1")
SECRET = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of those who run this Ray"}
PORT = 6379
OBJECT_STORE_BYTES = 80 * 2**20


class OnTheirRay(Fleet):
    """`ray start` with its own settings and secret, and a cluster upon it."""

    @property
    def _their_head(self) -> str:
        return f"{self.head.host.address}:{PORT}"

    def start_head(self) -> None:
        _start_ray(self.head, "--head", f"--port={PORT}", "--include-dashboard=false")
        self._start(self.head, "up", "--cluster", "ray", "--ray-address", self._their_head)

    def join(self, machine: Machine) -> None:
        _start_ray(machine, f"--address={self._their_head}")
        self._start(machine, *self._joining, "--has-ray")


def _start_ray(machine: Machine, *words: str) -> None:
    machine.env = SECRET
    place = (f"--node-ip-address={machine.host.address}", f"--temp-dir={machine.runtime}-ray")
    store = f"--object-store-memory={OBJECT_STORE_BYTES}"
    machine.run_beside([*RAY_START, *words, *place, store], "ray.out")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    base = tmp_path_factory.mktemp("theirs")
    with bridge() as network, fleet(base, network, 2, OnTheirRay) as made:
        yield made


def test_it_serves_recovers_and_leaves_ray_as_it_was(cluster: Fleet) -> None:
    name = cluster.create(min_nodes=2)
    epoch = cluster.ready(name)["epoch"]
    assert "Paris" in cluster.ask()
    second = cluster.machines["second"]
    assert not second.host.processes("paceline.cluster.ray.start"), "there is no Ray of ours"

    (lost,) = (rank for rank in cluster.ranks(name).values() if rank["node"] == "second")
    second.host.process(lost["pid"]).kill()
    cluster.ready(name, after=epoch)
    assert "Paris" in cluster.ask()

    for machine in cluster.machines.values():
        machine.paceline("down")
    for machine in cluster.machines.values():
        cluster.wait("runners to be gone", lambda m=machine: not m.runners())
        assert machine.host.processes("raylet"), "their Ray lives on"
    assert cluster.head.host.processes("gcs_server")
