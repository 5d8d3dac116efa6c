"""Long proofs: `make proof`."""

import random
import threading

import psutil
import pytest

from tests.support.cluster import MODEL, LocalCluster, local_cluster

pytestmark = [pytest.mark.proof, pytest.mark.real, pytest.mark.timeout(1800)]

KILLS = 20
STREAMS = 4


def body(number: int) -> dict:
    return {
        "model": MODEL,
        "prompt": f"A short story about the number {number}:",
        "max_tokens": 100,
        "temperature": 0.8,
        "seed": number,
        "ignore_eos": True,
        "return_token_ids": True,
        "stream": True,
    }


def ids_of(cluster: LocalCluster, number: int) -> list[int]:
    ids: list[int] = []
    for event in cluster.api.events("/v1/completions", body(number)):
        for choice in event["choices"]:
            ids += choice.get("token_ids") or []
    return ids


def keep_ids(cluster: LocalCluster, number: int, found: dict[int, list[int]]) -> None:
    found[number] = ids_of(cluster, number)


def test_streams_are_the_same_whatever_is_killed(tmp_path):
    """Seeded: the seed is printed with a failure."""
    seed = 20
    dice = random.Random(seed)
    with local_cluster(tmp_path / "h", nodes=2) as cluster:
        name = cluster.create(min_nodes=2)
        cluster.ready(name)
        calm = [ids_of(cluster, number) for number in range(STREAMS)]
        for kill in range(KILLS):
            found: dict[int, list[int]] = {}
            asked = [
                threading.Thread(target=keep_ids, args=(cluster, number, found))
                for number in range(STREAMS)
            ]
            for thread in asked:
                thread.start()
            asked[0].join(dice.uniform(0.2, 3.0))
            victim = dice.choice(cluster.instance(name)["runners"])
            psutil.Process(victim["pid"]).kill()
            for thread in asked:
                thread.join(120)
            assert [found.get(n) for n in range(STREAMS)] == calm, (seed, kill, victim)
            cluster.ready(name)
