"""A request that truly kills every runner that computes it: it is found and fails alone, everybody
else gets the whole answer, and the instance lives."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from paceline.cluster.local.options import Programs
from paceline.types.errors import PacelineError
from tests.support.choir import Choir, Voice, requests
from tests.support.cluster import LocalCluster, local_cluster
from tests.support.small import SMALL, write_small
from tests.system.programs.deadly import DEADLY

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

PROGRAM = str(Path(__file__).parent / "programs" / "deadly_runner.py")
TOKENS = 250


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """One for each test: what has failed so often is started again with long pauses."""
    write_small(tmp_path / "models")
    programs = Programs(runner=(sys.executable, PROGRAM))
    with local_cluster(tmp_path / "h", models=tmp_path / "models", programs=programs) as running:
        running.ready(running.create(SMALL, min_nodes=2, kv_tokens=16384))
        yield running


@pytest.mark.parametrize("streamed", [True, pytest.param(False, marks=pytest.mark.proof)])
def test_it_fails_alone(cluster, streamed):
    choir = Choir(cluster.api, requests(TOKENS, SMALL))
    voices = choir.begin()
    deadly = {"model": SMALL, "prompt": [1, 2, 3, DEADLY, 4], "max_tokens": 5, "stream": streamed}
    killer = Voice(cluster.api, deadly)
    with pytest.raises(PacelineError, match="failed 3 times in a row while this request had it"):
        killer.end()
    choir.verify(voices, "beside a request that kills")
    (instance,) = cluster.api.get("/api/instances")
    cluster.ready(instance["id"])
    after = httpx.post(f"{cluster.api.url}/v1/completions", json=requests(9, SMALL)[2], timeout=60)
    assert after.status_code == 200
