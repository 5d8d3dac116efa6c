"""A transport that loses one chosen message at one chosen moment: a token that was sampled and not
delivered, a step that never came, a driver's word, a gateway's. Clients do not notice."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from paceline.cluster.local.options import Programs
from tests.support.choir import Choir, requests
from tests.support.cluster import LocalCluster, local_cluster
from tests.support.small import SMALL, write_small

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

LOSSY = str(Path(__file__).parent / "programs" / "lossy.py")
TOKENS = 80
AT = [0, 1, 7, 33]
"""How many of the kind go through before the one that is lost."""


@contextmanager
def losses(directory: Path) -> Iterator[Path]:
    directory.mkdir()
    os.environ["LOSSES"] = str(directory)
    try:
        yield directory
    finally:
        del os.environ["LOSSES"]


class Stage:
    def __init__(self, cluster: LocalCluster, losses: Path) -> None:
        self.cluster = cluster
        self.name = cluster.create(SMALL, min_nodes=2, kv_tokens=8192)
        cluster.ready(self.name)
        self.choir = Choir(cluster.api, requests(TOKENS, SMALL))
        self._losses = losses

    def lose(self, kind: str, after: int) -> None:
        order = self._losses / kind
        order.write_text(str(after))
        try:
            voices = self.choir.begin()
            self.choir.verify(voices, (kind, after))
        finally:
            order.unlink(missing_ok=True)
        taken = order.with_suffix(".taken")
        assert taken.exists(), f"no {kind} was lost"
        taken.unlink()
        self.cluster.ready(self.name)


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Iterator[Stage]:
    models = tmp_path_factory.mktemp("models")
    write_small(models)
    programs = Programs(
        runner=(sys.executable, LOSSY, "paceline.runner"),
        gateway=(sys.executable, LOSSY, "paceline.gateway"),
    )
    base = tmp_path_factory.mktemp("cluster")
    with (
        losses(base / "losses") as directory,
        local_cluster(base / "h", models=models, programs=programs) as cluster,
    ):
        yield Stage(cluster, directory)


@pytest.mark.parametrize(("kind", "after"), [("Sampled", 20), ("Step", 9), ("Tokens", 30)])
def test_one_of_each(stage, kind, after):
    stage.lose(kind, after)


@pytest.mark.proof
@pytest.mark.parametrize("after", AT)
@pytest.mark.parametrize("kind", ["Step", "Sampled", "Tokens"])
def test_at_any_step(stage, kind, after):
    stage.lose(kind, after)


@pytest.mark.proof
@pytest.mark.parametrize("after", [0, 3, 15])
def test_a_request_that_never_came_is_sent_again(stage, after):
    """Only time tells: its stream makes no progress."""
    stage.lose("Submit", after)
