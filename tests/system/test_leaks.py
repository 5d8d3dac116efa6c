"""Instances come and go; what outlives them holds no more than before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from paceline.cluster.node.agent import RUNNER_LOGS_KEPT
from tests.support.census import Census, quiet, settled
from tests.support.cluster import LocalCluster, local_cluster
from tests.support.small import SMALL, write_small
from tests.support.streams import body, calm

pytestmark = pytest.mark.real

FIRST = 3
"""Cycles that fill caches and pools before anything is counted."""
GROWTH_MIB = 4.0
"""Of resident memory, for one process: what the allocator keeps and the event log's ring."""
OTHER_LOGS = 30


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[LocalCluster]:
    models = tmp_path_factory.mktemp("models")
    write_small(models)
    with local_cluster(tmp_path_factory.mktemp("home"), models=models) as running:
        yield running


def cycle(cluster: LocalCluster) -> None:
    name = cluster.create(SMALL, min_nodes=2, kv_tokens=1024)
    cluster.ready(name)
    assert len(calm(cluster, body(1, 5, SMALL))) == 5
    cluster.delete(name)


def stands_ready(cluster: LocalCluster) -> bool:
    """One blank runner on each node has started, and nobody else is there."""
    runners = cluster.api.get("/api/runners")
    nodes = cluster.api.get("/api/nodes")
    listed = [runner for node in nodes for runner in node["runners"]]
    idle = {r["node"] for r in runners if r["state"] == "idle" and r["runner_id"] in listed}
    return len(listed) == len(nodes) == len(idle)


def come_and_go(cluster: LocalCluster, cycles: int) -> Census:
    for _ in range(FIRST):
        cycle(cluster)
    before = quiet(cluster, lambda: stands_ready(cluster))
    halfway = before
    for number in range(cycles):
        cycle(cluster)
        if number == cycles // 2:
            halfway = quiet(cluster, lambda: stands_ready(cluster))
    quiet(cluster, lambda: stands_ready(cluster))
    after = settled(cluster, before)
    print(f"\n{cycles} cycles: {before}\n  then {after}")
    print(f"  MiB more than before: {after.growth(before)}, than halfway: {after.growth(halfway)}")
    assert not (more := after.more_than(before)), "; ".join(more)
    grown = after.growth(halfway)
    assert max(grown.values()) <= GROWTH_MIB, grown
    return after


def test_ten_instances_leave_nothing(cluster):
    come_and_go(cluster, 10)


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_two_hundred_instances_leave_nothing(cluster):
    after = come_and_go(cluster, 200)
    assert after.logs <= RUNNER_LOGS_KEPT + OTHER_LOGS
