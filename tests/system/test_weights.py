"""Two nodes, one of which has nothing of the real model: it fetches its shard from the other, and
they answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paceline.checkpoint.facts import shard_bytes
from paceline.checkpoint.manifest import describe, write_manifest
from paceline.checkpoint.partial import held
from paceline.checkpoint.store import Store
from paceline.cluster.local.options import Programs
from paceline.process.home import Home
from paceline.types.model import Shard
from tests.support.cluster import MODEL, LocalCluster, local_cluster
from tests.support.models import smollm2_dir

pytestmark = pytest.mark.real

LAYERS = 30
APART = Programs(supervisor=(sys.executable, str(Path(__file__).parent / "programs" / "apart.py")))


def link_model(home: Path) -> Path:
    """The real model in a home of its own, described anew: the files are those of all tests."""
    directory = home / "models" / MODEL
    directory.mkdir(parents=True)
    for file in smollm2_dir().iterdir():
        if file.is_file() and file.name != "paceline.json":
            (directory / file.name).symlink_to(file)
    write_manifest(directory, describe(directory, MODEL, "the tests' own"))
    return directory


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[LocalCluster]:
    home = Home(tmp_path_factory.mktemp("home"))
    home.create()
    link_model(home.path)
    with local_cluster(home.path, nodes=2, programs=APART) as running:
        yield running


def cut_at(layer: int) -> list[dict[str, Any]]:
    """By hand: how quick a node seems to be decides elsewhere."""
    return [
        {"rank": 0, "node": "node-1", "start": 0, "stop": layer},
        {"rank": 1, "node": "node-2", "start": layer, "stop": LAYERS},
    ]


def given_bytes(cluster: LocalCluster) -> dict[str, int]:
    return {node["name"]: node["given_bytes"] for node in cluster.api.get("/api/nodes")}


def test_a_node_with_nothing_fetches_its_shard_and_no_more(cluster):
    name = cluster.create(seats=cut_at(17))
    cluster.ready(name)
    assert "Paris" in cluster.ask()
    shard = Shard(start=17, stop=LAYERS, layers=LAYERS)
    needed = shard_bytes(cluster.home.models / MODEL, shard)
    cluster.wait("the count", lambda: given_bytes(cluster)["node-1"] > 0)
    moved = given_bytes(cluster)
    print(f"shard {needed / 1e6:.1f} MB, moved {moved['node-1'] / 1e6:.1f} MB")
    assert needed <= moved["node-1"] <= 1.05 * needed
    assert moved["node-2"] == 0

    (directory,) = Store(cluster.home.path / "stores" / "node-2").directories()
    on_disk = sum(file.stat().st_blocks * 512 for file in directory.iterdir() if file.is_file())
    assert on_disk <= 1.06 * needed, "the holes of the file are filled"
    assert held(directory) is not None
    cluster.delete(name)


def test_the_same_shard_again_moves_nothing_and_another_only_what_is_missing(cluster):
    before = given_bytes(cluster)["node-1"]
    name = cluster.create(seats=cut_at(17))
    cluster.ready(name)
    cluster.delete(name)
    assert given_bytes(cluster)["node-1"] == before
    again = cluster.create(seats=cut_at(5))
    cluster.ready(again)
    assert "Paris" in cluster.ask()
    more = Shard(start=5, stop=LAYERS, layers=LAYERS)
    needed = shard_bytes(cluster.home.models / MODEL, more)
    cluster.wait("the count", lambda: given_bytes(cluster)["node-1"] > before)
    assert before < given_bytes(cluster)["node-1"] <= 1.05 * needed
    cluster.delete(again)
