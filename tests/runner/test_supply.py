"""Where a runner has its checkpoint from, and what it says on the way."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from paceline.checkpoint import Store
from paceline.checkpoint.facts import shard_bytes
from paceline.checkpoint.manifest import describe, write_manifest
from paceline.checkpoint.partial import Partial
from paceline.runner.pulse import Pulse
from paceline.runner.supply import Supply
from paceline.types.errors import CheckpointError
from paceline.types.ids import Epoch
from paceline.types.model import Shard
from paceline.types.tasks import Fetch
from tests.support.depots import MEMBER, Asked, Forgetful, Nodes
from tests.support.small import LAYERS, SMALL, write_small

SHARD = Shard(start=0, stop=2, layers=LAYERS)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_small(home / "models")
    return home


@pytest.fixture
def nodes(home) -> Iterator[Nodes]:
    runtime = Path(tempfile.mkdtemp(prefix="pl-", dir="/tmp"))
    made = Nodes(home, runtime, zmq.Context.instance())
    yield made
    made.close()
    shutil.rmtree(runtime)


def fetch(home: Path, *sources, digest: str | None = None) -> Fetch:
    return Fetch(
        task_id="t", epoch=Epoch(1, 1), deadline_s=60, model=SMALL, shard=SHARD, sources=sources,
        digest=Store(home).manifest(SMALL).digest if digest is None else digest,
    )  # fmt: skip


def test_a_fetch_says_how_far_it_is_how_fast_and_from_whom(home, nodes, tmp_path, monkeypatch):
    source, shelf = nodes.open()
    said: list[tuple[float, str]] = []
    ticks: list[int] = []
    monkeypatch.setattr("paceline.runner.supply.SAY_EVERY_S", 0.0)
    supply = Supply(Store(tmp_path), MEMBER)
    report = lambda share, words: said.append((share, words))  # noqa: E731
    directory = supply.bring(fetch(home, source), report, lambda: ticks.append(1))
    assert shard_bytes(directory, SHARD) <= shelf.bytes
    shares = [share for share, _ in said]
    assert shares == sorted(shares)
    assert 0 < shares[-1] < 1
    assert any("MB/s, from n1" in words for _, words in said)
    assert len(ticks) >= len(said)


def test_without_a_node_that_has_it_its_origin_is_asked(home, nodes, tmp_path):
    """Which knows no such model; both reasons are told."""
    supply = Supply(Store(tmp_path), MEMBER)
    for sources in ((), (nodes.open(Forgetful)[0],)):
        with pytest.raises(CheckpointError, match=r"no node|cannot be had") as failure:
            supply.bring(fetch(home, *sources), lambda *_: None, lambda: None)
        assert "no model 'small'" in str(failure.value)


def test_another_content_under_the_name_is_not_the_model(home, tmp_path):
    """Ranks with other weights would give nonsense, and nobody would see why."""
    other = write_small(tmp_path / "models")
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    write_manifest(other, describe(other, SMALL, "another"))
    supply = Supply(Store(tmp_path), MEMBER)
    with pytest.raises(CheckpointError, match="another small than the cluster's"):
        supply.bring(fetch(home), lambda *_: None, lambda: None)
    assert Store(tmp_path).has(SMALL), "what somebody stored stays"


def test_the_clusters_content_is_fetched_beside_another_of_its_name(home, nodes, tmp_path):
    (tmp_path / "models").mkdir()
    shutil.copytree(home / "models" / SMALL, tmp_path / "models" / SMALL)
    source, _ = nodes.open(Asked)
    task = fetch(home, source)
    mine = tmp_path / "models" / SMALL / "paceline.json"
    mine.write_text(mine.read_text().replace(task.digest, "0" * 64))
    directory = Supply(Store(tmp_path), MEMBER).bring(task, lambda *_: None, lambda: None)
    assert directory == Store(tmp_path).partial(task.digest)


def test_what_was_fetched_of_another_content_goes_once_this_is_here(home, nodes, tmp_path):
    store = Store(tmp_path)
    other = msgspec.structs.replace(Store(home).manifest(SMALL), digest="1" * 64)
    Partial(store.partial(other.digest), other).close()
    supply = Supply(store, MEMBER)
    with pytest.raises(CheckpointError):
        supply.bring(fetch(home), lambda *_: None, lambda: None)
    assert store.directories() == (store.partial(other.digest),)
    directory = supply.bring(fetch(home, nodes.open()[0]), lambda *_: None, lambda: None)
    assert store.directories() == (directory,)


def test_a_fetch_that_lasts_is_not_called_stuck():
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    pulse.begin("fetch")
    for _ in range(100):
        now[0] += 1.0
        pulse.look(0.0)
        pulse.tick()
    now[0] += 1.0
    for _ in range(100):
        now[0] += 1.0
        work = pulse.look(0.0)
    assert work is not None
    assert not work.is_stuck
