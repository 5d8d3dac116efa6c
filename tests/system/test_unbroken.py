"""Sixteen clients of every kind are answered to the letter what they are answered in peace, and no
error, whatever dies behind the gateway. The real model; lines of two and of three ranks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.blows import BLOWS, Blow, Striker, kill
from tests.support.choir import Choir, requests
from tests.support.cluster import LocalCluster, local_cluster

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

NODES = 4
"""One more than the longest line has, so that it has where to go."""
TOKENS = 40
KILLS = 5
KILLS_PROVED = 100
"""For each length of line."""
ROUNDS_PROVED = 5


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("home"), nodes=NODES) as running:
        yield running


class Stage:
    """An instance, and what the choir sings on it in peace."""

    def __init__(self, cluster: LocalCluster, ranks: int) -> None:
        self.cluster = cluster
        self.name = cluster.create(min_nodes=ranks, max_nodes=ranks, kv_tokens=8192)
        cluster.ready(self.name)
        self.choir = Choir(cluster.api, requests(TOKENS))

    def _state(self) -> str:
        return str(self.cluster.instance(self.name)["state"])

    def strike(self, blows: list[Blow], seed: int, least_s: float, most_s: float) -> None:
        """Every blow lands while they sing; they begin again as often as it takes. A line that was
        struck while it recovered comes back before the next blow: a client that has got nothing
        waits half a minute for one, and is then told to come again."""
        striker, waiting = Striker(self.cluster, self.name, seed), list(reversed(blows))
        while waiting:
            voices = self.choir.begin()
            while waiting and any(voice.goes_on for voice in voices):
                striker.pause(least_s, most_s)
                state = self.cluster.wait("its state", self._state)
                striker.strike(waiting.pop())
                if state != "ready":
                    self.cluster.ready(self.name)
            self.choir.verify(voices, (seed, striker.struck))
        self.cluster.ready(self.name)


@pytest.fixture(scope="module", params=[2, 3], ids=["two ranks", "three ranks"])
def stage(cluster, request) -> Iterator[Stage]:
    made = Stage(cluster, request.param)
    yield made
    cluster.delete(made.name)


def test_random_kills(stage):
    stage.strike([kill] * KILLS, seed=1, least_s=0.3, most_s=3.0)


@pytest.mark.parametrize("stage", [2], indirect=True, ids=["two ranks"])
def test_one_of_each_other_kind(stage):
    blows = [blow for blow in BLOWS if blow is not kill]
    stage.strike(blows, seed=2, least_s=0.2, most_s=1.0)


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_a_hundred_random_kills(stage):
    stage.strike([kill] * KILLS_PROVED, seed=3, least_s=0.2, most_s=4.0)


@pytest.mark.proof
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("blow", BLOWS, ids=lambda blow: blow.__name__)
def test_the_same_again_and_again(stage, blow):
    for seed in range(ROUNDS_PROVED):
        stage.strike([blow], seed, least_s=0.2, most_s=5.0)


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_all_kinds_in_any_order(stage):
    striker = Striker(stage.cluster, stage.name, seed=4)
    for seed in range(ROUNDS_PROVED):
        blows = striker.dice.sample(BLOWS, len(BLOWS))
        stage.strike(blows, seed, least_s=0.2, most_s=3.0)
