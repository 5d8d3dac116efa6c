"""Damaged files and too little memory: the task fails with its cause, the process lives where it
can, other instances go on, and what is mended becomes ready by itself."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from paceline.types.errors import PacelineError
from tests.support.cluster import MODEL, LocalCluster, local_cluster
from tests.support.limits import lift_address_space, limit_address_space, memory_group
from tests.support.models import smollm2_dir
from tests.support.small import SMALL, write_small
from tests.support.streams import body, calm

pytestmark = pytest.mark.real

MIB = 2**20
NODES = {"node-1", "node-2"}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    write_small(directory)
    (directory / MODEL).symlink_to(smollm2_dir())
    return directory


@pytest.fixture(scope="module")
def cluster(models, tmp_path_factory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("home"), models=models) as running:
        yield running


@pytest.fixture(scope="module")
def steady(cluster) -> str:
    """An instance that nothing happens to."""
    return cluster.create(SMALL, min_nodes=2, kv_tokens=1024)


@pytest.fixture
def beside(cluster, steady) -> Iterator[None]:
    """Whatever a test does to others, the steady instance keeps its line and answers."""
    epoch = cluster.ready(steady)["epoch"]
    pids, tokens = cluster.pids(steady), calm(cluster, body(1, 50, SMALL))
    yield
    assert calm(cluster, body(1, 50, SMALL)) == tokens
    assert (cluster.pids(steady), cluster.instance(steady)["epoch"]) == (pids, epoch)


def copy_of_small(models: Path, name: str) -> Path:
    """Another checkpoint, with weights of its own that may be damaged; gives their file."""
    return write_small(models, name) / "model.safetensors"


def reason(cluster: LocalCluster, name: str, words: str) -> dict[str, Any]:
    """Waits until the instance says these words among its reasons."""

    def says() -> dict[str, Any] | None:
        found = cluster.instance(name)
        return found if words in " ".join(found["reasons"]) else None

    found: dict[str, Any] = cluster.wait(f"{name} to say {words!r}", says)
    return found


def blank_runners(cluster: LocalCluster) -> list[dict[str, Any]]:
    """One on each node, without a seat, idle."""

    def on_each() -> list[dict[str, Any]] | None:
        runners = cluster.api.get("/api/runners")
        found = [r for r in runners if r["seat"] is None and r["state"] == "idle"]
        return found if {runner["node"] for runner in found} == NODES else None

    found: list[dict[str, Any]] = cluster.wait("a blank runner on each node", on_each)
    return found


# --- files ---------------------------------------------------------------------------------------


def test_a_truncated_shard_is_told_and_mended(cluster, models, beside):
    """What lives on its weights is not touched by it, not even by a new controller."""
    weights = copy_of_small(models, "frail")
    whole = weights.read_bytes()
    name = cluster.create("frail", min_nodes=2, kv_tokens=1024)
    epoch = cluster.ready(name)["epoch"]
    before, term = cluster.pids(name), cluster.term()
    weights.write_bytes(whole[:-1000])
    (controller,) = cluster.processes("paceline.controller")
    controller.kill()
    cluster.wait("a new term", lambda: cluster.term() > term)
    cluster.ready(name)
    assert cluster.pids(name) == before
    os.kill(before[1], signal.SIGKILL)
    found = reason(cluster, name, "truncated")
    assert found["state"] in ("recovering", "failed")
    (victim,) = (runner for runner in found["runners"] if runner["rank"] == 1)
    assert psutil.pid_exists(victim["pid"]), "a load that fails does not end its process"
    os.kill(victim["pid"], signal.SIGKILL)
    other = lambda: cluster.pids(name).get(1) not in (None, victim["pid"])  # noqa: E731
    cluster.wait("another process, which fails just so", other)
    reason(cluster, name, "truncated")
    weights.write_bytes(whole)
    cluster.ready(name, after=epoch)
    assert cluster.pids(name)[0] == before[0]
    cluster.delete(name)


def test_weights_that_make_no_numbers_fail_with_that_reason_and_can_be_deleted(
    cluster, models, beside
):
    weights = copy_of_small(models, "poisoned")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-50_000] + b"\xff" * 50_000)
    name = cluster.create("poisoned", min_nodes=2, kv_tokens=1024)
    found = reason(cluster, name, "NaN or infinite")
    assert found["state"] in ("starting", "failed")
    cluster.delete(name)


def test_a_file_that_is_no_checkpoint_is_told_to_who_asks_for_it(cluster, models, beside):
    weights = copy_of_small(models, "headless")
    weights.write_bytes(b"\0" * 1000)
    with pytest.raises(PacelineError, match="truncated, or not a safetensors file"):
        cluster.create("headless", min_nodes=2, kv_tokens=1024)
    shutil.rmtree(weights.parent)


# --- memory --------------------------------------------------------------------------------------


def test_a_load_that_finds_no_memory_fails_and_its_process_loads_when_there_is_some(
    cluster, beside
):
    blanks = [runner["pid"] for runner in blank_runners(cluster)]
    for pid in blanks:
        limit_address_space(pid, more=64 * MIB)
    name = cluster.create(MODEL, min_nodes=2, kv_tokens=1024)
    reason(cluster, name, "memory")
    for pid in blanks:
        lift_address_space(pid)
    cluster.ready(name)
    assert sorted(cluster.pids(name).values()) == sorted(blanks)
    assert "Paris" in cluster.ask()
    cluster.delete(name)


def test_the_out_of_memory_killer_is_named(cluster):
    """It takes whom it likes of a node, so nobody there is left out."""
    blank_runners(cluster)
    (supervisor,) = cluster.processes("--node node-2 --memory")
    with memory_group() as group:
        for process in (supervisor, *supervisor.children()):
            group.take(process.pid)
        group.limit(100 * MIB)
        name = cluster.create(MODEL, min_nodes=2, kv_tokens=1024)
        killed = lambda: [  # noqa: E731
            event["sentence"]
            for event in cluster.events()
            if event["kind"] == "runner_gone" and "out-of-memory killer" in event["sentence"]
        ]
        (sentence, *_) = cluster.wait("the kernel to kill", killed)
        assert "on node-2 killed by SIGKILL" in sentence
        found = reason(cluster, name, "out-of-memory killer")
        assert found["state"] in ("starting", "recovering", "failed")
        group.lift()
        cluster.ready(name)
        assert supervisor.is_running()
    cluster.delete(name)


# --- all of it -----------------------------------------------------------------------------------


def test_a_dead_parent_ends_all_and_the_next_one_serves_what_was_wanted(models, tmp_path):
    home = tmp_path / "h"
    with local_cluster(home, nodes=1, models=models) as first:
        name = first.create(SMALL, kv_tokens=1024)
        first.ready(name)
        tokens = calm(first, body(1, 50, SMALL))
        term = first.term()
        family = first.family()
        assert len(family) >= 5
        family[0].kill()
        _, alive = psutil.wait_procs(family[1:], timeout=10)
        assert not alive
    with local_cluster(home, nodes=1) as second:
        second.ready(name)
        assert second.term() > term
        assert calm(second, body(1, 50, SMALL)) == tokens
