"""A home on a small disk: a fetch that finds no room waits with its reason and goes on when there
is some, and a full disk stops no recovery."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from filelock import FileLock

from paceline.types.errors import PacelineError
from tests.checkpoint.hub_server import serving
from tests.support.cluster import MODEL, LocalCluster, local_cluster, read_lines
from tests.support.limits import SmallDisk, small_disk
from tests.support.small import SMALL, write_small
from tests.support.streams import body, calm

pytestmark = pytest.mark.real

DISK_BYTES = 64 * 2**20
TOO_LITTLE = 6 * 2**20
"""Room for some of the model, which has 13 MB, but not for all."""
REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Where the default model is fetched from; the test serves the small one there."""


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Iterator[SmallDisk]:
    with small_disk(tmp_path_factory.mktemp("disk"), DISK_BYTES) as mounted:
        yield mounted


@pytest.fixture(scope="module")
def cluster(disk, tmp_path_factory) -> Iterator[LocalCluster]:
    models = tmp_path_factory.mktemp("models")
    served = write_small(models)
    (disk.path / "models").mkdir()
    (disk.path / "models" / SMALL).symlink_to(served)
    with pytest.MonkeyPatch.context() as patch, serving(served, REPOSITORY) as hub:
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.setenv("PIP_NO_INDEX", "1")
        with local_cluster(disk.path) as running:
            yield running


@pytest.mark.proof
def test_a_runner_that_dies_while_it_fetches_is_replaced(cluster, disk):
    """It waits for whoever holds the lock of the model, so it stays there."""

    def blank() -> dict | None:
        runners = cluster.api.get("/api/runners")
        return next((r for r in runners if r["node"] == "node-1" and r["state"] == "idle"), None)

    victim = cluster.wait("a blank runner", blank)
    (disk.path / "locks").mkdir(exist_ok=True)
    with FileLock(disk.path / "locks" / f"{MODEL}.lock"):
        task = {"kind": "fetch", "model": MODEL}
        cluster.api.post(f"/api/runners/{victim['runner_id']}/tasks?wait=0", task)
        log = cluster.home.log_file("runner", victim["runner_id"])
        fetches = lambda: any(line.get("kind") == "fetch" for line in read_lines(log))  # noqa: E731
        cluster.wait("it to fetch", fetches)
        os.kill(victim["pid"], signal.SIGKILL)
        assert [line["state"] for line in read_lines(log) if line["event"] == "state"] == [
            "fetching"
        ]
    cluster.wait("another blank runner", lambda: (b := blank()) and b["pid"] != victim["pid"])


def test_a_fetch_that_fills_the_disk_waits_with_its_reason_and_ends_well(cluster, disk):
    disk.fill(leave=TOO_LITTLE)
    name = cluster.create(MODEL, min_nodes=2, kv_tokens=1024)
    no_room = lambda: "No space left" in " ".join(cluster.instance(name)["reasons"])  # noqa: E731
    cluster.wait("it to say that there is no room", no_room)
    assert cluster.instance(name)["state"] == "waiting"
    disk.free()
    cluster.ready(name)
    assert len(calm(cluster, body(1, 20))) == 20
    cluster.delete(name)


def test_a_full_disk_stops_no_recovery(cluster, disk):
    name = cluster.create(SMALL, min_nodes=2, kv_tokens=1024)
    cluster.ready(name)
    tokens = calm(cluster, body(1, 50, SMALL))
    disk.fill()
    assert disk.is_full

    epoch = cluster.instance(name)["epoch"]
    os.kill(cluster.pids(name)[1], signal.SIGKILL)
    epoch = cluster.ready(name, after=epoch)["epoch"]
    assert calm(cluster, body(1, 50, SMALL)) == tokens

    # The second one finds in use the term that the first could not write down.
    for rank in (0, 1):
        term, before = cluster.term(), cluster.pids(name)
        (controller,) = cluster.processes("paceline.controller")
        controller.kill()
        cluster.wait("a new term", lambda term=term: cluster.term() > term)
        cluster.ready(name)
        assert cluster.pids(name) == before
        os.kill(before[rank], signal.SIGKILL)
        epoch = cluster.ready(name, after=epoch)["epoch"]
        assert epoch[0] > term

    (gateway,) = cluster.processes("paceline.gateway")
    gateway.kill()
    cluster.wait("another gateway", lambda: cluster.processes("paceline.gateway") != [gateway])
    (supervisor,) = cluster.processes("--node node-2 --memory")
    supervisor.kill()
    cluster.ready(name, after=epoch)
    assert calm(cluster, body(1, 50, SMALL)) == tokens

    assert disk.is_full
    with pytest.raises(PacelineError, match="free space"):
        cluster.create(SMALL, min_nodes=2, kv_tokens=1024)
    disk.free()
    second = cluster.create(SMALL, min_nodes=2, kv_tokens=1024)
    cluster.ready(second)
