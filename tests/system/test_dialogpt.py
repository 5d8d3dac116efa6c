"""A model of DialoGPT-medium's size: on one node by default, on two when asked or when it must."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paceline.checkpoint.import_dir import import_dir
from paceline.checkpoint.store import Store
from tests.support.cluster import GIB, LocalCluster, local_cluster
from tests.support.dialogpt import dialogpt

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

NAME = "dialogpt-medium"
KV_TOKENS = 1024


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds it."""
    base = tmp_path_factory.mktemp("dialogpt")
    home = base / "home"
    imported = import_dir(dialogpt(base / "made"), Store(home), NAME, move=True)
    size = sum(path.stat().st_size for path in imported.glob("*.safetensors"))
    assert round(size / 1e9, 3) == 0.863
    return home / "models"


@pytest.fixture(scope="module")
def roomy(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    home = tmp_path_factory.mktemp("roomy")
    with local_cluster(home, nodes=2, memory=4 * GIB, models=models) as running:
        yield running


def generate(cluster: LocalCluster, **options: Any) -> list[int]:
    body = {
        "model": NAME,
        "prompt": "Does money buy happiness?",
        "max_tokens": 12,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    answer = cluster.api.post("/v1/completions", body | options)
    return list(answer["choices"][0]["token_ids"])


def test_one_node_by_default_two_when_asked_and_the_same_tokens(roomy: LocalCluster) -> None:
    alone = roomy.create(model=NAME, kv_tokens=KV_TOKENS)
    assert roomy.ready(alone)["world_size"] == 1
    ids = generate(roomy)
    assert len(ids) == 12
    roomy.api.delete(f"/api/instances/{alone}")
    roomy.wait("it to be gone", lambda: not roomy.api.get("/api/instances"))

    together = roomy.create(model=NAME, kv_tokens=KV_TOKENS, min_nodes=2)
    runners = sorted(roomy.ready(together)["runners"], key=lambda runner: runner["rank"])
    assert [runner["rank"] for runner in runners] == [0, 1]
    assert runners[0]["node"] != runners[1]["node"]
    assert generate(roomy) == ids


def test_two_nodes_when_no_single_one_has_room(models: Path, tmp_path: Path) -> None:
    with local_cluster(tmp_path / "h", nodes=2, memory=3 * GIB // 2, models=models) as tight:
        tight.wait("both nodes", lambda: len(tight.api.get("/api/nodes")) == 2)
        name = tight.create(model=NAME, kv_tokens=KV_TOKENS, dtype="float32")
        runners = sorted(tight.ready(name)["runners"], key=lambda runner: runner["rank"])
        assert [runner["rank"] for runner in runners] == [0, 1]
        assert runners[0]["node"] != runners[1]["node"]
        assert len(generate(tight)) == 12
        said = " ".join(e["sentence"] for e in tight.api.get("/api/events", follow="false"))
        assert "does not fit on fewer" in said
