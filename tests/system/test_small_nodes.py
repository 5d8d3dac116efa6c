"""A model that no single node can hold, on nodes as small as a spare gigabyte."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.planner.sizes import MIB
from tests.support.cluster import local_cluster

pytestmark = pytest.mark.real


def test_four_nodes_of_700_mib_hold_it_in_float32_and_answer(tmp_path: Path) -> None:
    with local_cluster(tmp_path / "h", nodes=4, memory=700 * MIB) as cluster:
        cluster.wait("all nodes", lambda: len(cluster.api.get("/api/nodes")) == 4)
        found = cluster.ready(cluster.create(kv_tokens=2048, dtype="float32"))
        runners = found["runners"]
        assert len(runners) == found["world_size"] > 1
        assert len({runner["node"] for runner in runners}) == len(runners)
        assert "Paris" in cluster.ask()
