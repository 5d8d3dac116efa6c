"""A checkpoint from depots that serve it, lie, die, are slow, or have only parts of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Never

import msgspec
import pytest
import zmq

from paceline.checkpoint import Store
from paceline.checkpoint.chunks import MOST_BYTES
from paceline.checkpoint.facts import shard_tensors
from paceline.checkpoint.manifest import Manifest
from paceline.checkpoint.partial import DiskFull, Held, Partial, is_whole
from paceline.checkpoint.progress import Progress, silent
from paceline.checkpoint.tensors import TensorFiles
from paceline.checkpoint.wanted import checkpoint_steps, shard_steps, text_steps
from paceline.transport import depot
from paceline.transport import fetch as module
from paceline.transport.depot import LEAST_BYTES_PER_S
from paceline.transport.errors import NobodyGives
from paceline.transport.fetch import fetch_checkpoint
from paceline.transport.givers import Givers
from paceline.transport.keys import KeyPair
from paceline.types.errors import CheckpointError
from paceline.types.model import Shard
from tests.support.depots import MEMBER, Asked, Forger, Forgetful, Liar, Mute, Nodes, Slow
from tests.support.small import LAYERS, SMALL, write_small

SHARD = Shard(start=0, stop=2, layers=LAYERS)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_small(home / "models")
    return home


@pytest.fixture(scope="module")
def manifest(home) -> Manifest:
    return Store(home).manifest(SMALL)


@pytest.fixture
def nodes(home: Path, runtime: Path, context) -> Iterator[Nodes]:
    made = Nodes(home, runtime, context)
    yield made
    made.close()


@pytest.fixture
def get(tmp_path, manifest, context):
    """Fetches into a store of its own, and gives the directory."""

    def fetch(*sources, steps=None, on_progress=silent, store=None, keys=MEMBER, silence_s=0.5):
        steps = shard_steps(SHARD) if steps is None else steps
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "Givers", _hurried(module.Givers, context, silence_s))
            return fetch_checkpoint(
                store or Store(tmp_path), SMALL, manifest.digest, steps, sources, keys, on_progress
            )

    return fetch


def _hurried(kind, context, silence_s):
    return lambda *given: kind(*given, context=context, silence_s=silence_s)


def same(directory: Path, home: Path, shard: Shard = SHARD) -> None:
    """The tensors of the shard are those of the whole checkpoint."""
    with TensorFiles(directory) as mine, TensorFiles(home / "models" / SMALL) as theirs:
        for name in shard_tensors(directory, shard):
            assert (mine.read(name) == theirs.read(name)).all()


def test_a_shard_comes_and_nothing_of_it_comes_twice(get, nodes, home, manifest):
    source, shelf = nodes.open()
    directory = get(source)
    same(directory, home)
    assert len(shelf.chunks) == len(set(shelf.chunks))
    before = list(shelf.chunks)
    assert get(source) == directory
    assert get() == directory
    assert shelf.chunks == before


def test_a_rank_without_the_table_moves_little_of_the_file(get, nodes, home, manifest):
    source, shelf = nodes.open()
    middle = Shard(start=2, stop=4, layers=LAYERS)
    directory = get(source, steps=shard_steps(middle))
    same(directory, home, middle)
    assert not is_whole(manifest, Held(directory, manifest).chunks)
    assert shelf.bytes < manifest.total_bytes / 2


def test_all_of_it_comes_whole_and_can_be_given_on(get, nodes, home, tmp_path):
    source, _ = nodes.open()
    directory = get(source, steps=checkpoint_steps())
    for file in (home / "models" / SMALL).iterdir():
        if file.name != "paceline.json":
            assert (directory / file.name).read_bytes() == file.read_bytes()
    second, shelf = nodes.open(home=tmp_path)
    (offered,) = nodes.depots[-1].checkpoints
    assert offered.is_whole
    same(get(second, store=Store(tmp_path / "third")), home)
    assert shelf.chunks


def test_a_whole_checkpoint_is_not_fetched(get, nodes, home):
    source, shelf = nodes.open()
    assert get(source, store=Store(home)) == home / "models" / SMALL
    assert shelf.chunks == []


def test_the_tokenizer_comes_without_any_weights(get, nodes, home, manifest):
    source, shelf = nodes.open()
    directory = get(source, steps=text_steps())
    for name in ("tokenizer.json", "config.json", "tokenizer_config.json"):
        assert (directory / name).read_bytes() == (home / "models" / SMALL / name).read_bytes()
    weights = next(n for n, f in enumerate(manifest.files) if f.name == "model.safetensors")
    assert weights not in {file for file, _ in shelf.chunks}


def test_several_peers_share_the_work(get, nodes, home):
    opened = [nodes.open() for _ in range(3)]
    same(get(*(source for source, _ in opened)), home)
    taken = [chunk for _, shelf in opened for chunk in shelf.chunks]
    assert len(taken) == len(set(taken))
    assert all(shelf.chunks for _, shelf in opened)


@pytest.mark.parametrize("kind", [Liar, Forger, Slow, Forgetful, Mute])
def test_a_bad_peer_costs_a_retry_elsewhere_and_nothing_else(get, nodes, home, kind):
    bad, shelf = nodes.open(kind)
    good, _ = nodes.open()
    same(get(bad, good), home)
    if kind is Mute:
        shelf.released.set()


@pytest.mark.parametrize("kind", [Liar, Forger, Forgetful])
def test_where_nobody_is_honest_nothing_is_kept_that_is_wrong(get, nodes, manifest, tmp_path, kind):
    with pytest.raises(NobodyGives, match="n1"):
        get(nodes.open(kind)[0])
    directory = Store(tmp_path).partial(manifest.digest)
    if directory.exists():
        assert Held(directory, manifest).chunks == {}


def test_a_peer_that_dies_in_the_middle_is_replaced(get, nodes, home):
    (dying, shelf), (other, rest) = nodes.open(), nodes.open()

    def die(progress: Progress) -> None:
        if len(shelf.chunks) > 4:
            nodes.depots[0].close()

    same(get(dying, other, on_progress=die), home)
    assert rest.chunks


def test_parts_of_several_peers_make_one(get, nodes, home, tmp_path):
    whole, _ = nodes.open()
    homes = [tmp_path / "low", tmp_path / "high"]
    halves = [Shard(start=0, stop=3, layers=LAYERS), Shard(start=3, stop=LAYERS, layers=LAYERS)]
    for at, half in zip(homes, halves, strict=True):
        get(whole, store=Store(at), steps=shard_steps(half))
    sources = [nodes.open(home=at)[0] for at in homes]
    across = Shard(start=2, stop=4, layers=LAYERS)
    directory = get(*sources, steps=shard_steps(across), store=Store(tmp_path / "mine"))
    same(directory, home, across)


def test_what_no_peer_has_is_said(get, nodes, tmp_path):
    whole, _ = nodes.open()
    get(whole, store=Store(tmp_path / "low"))
    part, _ = nodes.open(home=tmp_path / "low")
    with pytest.raises(NobodyGives, match="cannot be had"):
        get(part, steps=checkpoint_steps(), store=Store(tmp_path / "mine"))


def test_what_was_broken_off_goes_on_where_it_was(get, nodes, home):
    source, shelf = nodes.open()

    class Unwanted(Exception):
        pass

    def stop(progress: Progress) -> None:
        if len(shelf.chunks) > 20:
            raise Unwanted

    with pytest.raises(Unwanted):
        get(source, on_progress=stop)
    first = set(shelf.chunks)
    shelf.chunks.clear()
    same(get(source), home)
    # What was on its way when it was broken off, and no more.
    assert len(first & set(shelf.chunks)) <= 8


def test_a_part_that_was_damaged_on_the_disk_is_fetched_again(get, nodes, home):
    source, shelf = nodes.open()
    directory = get(source)
    (directory / "model.safetensors").unlink()
    shelf.chunks.clear()
    same(get(source), home)
    assert shelf.chunks


def test_what_cannot_be_read_just_now_is_not_thrown_away(get, nodes, home, monkeypatch):
    source, shelf = nodes.open()
    directory = get(source)
    shelf.chunks.clear()

    def no_descriptors(*_: object) -> Never:
        raise CheckpointError("too many open files")

    monkeypatch.setattr(module, "read_manifest", no_descriptors)
    with pytest.raises(CheckpointError, match="too many"):
        get(source)
    monkeypatch.undo()
    assert get(source) == directory
    assert shelf.chunks == []


def test_a_gateway_removes_nothing_that_others_fetch(get, nodes, manifest, tmp_path):
    store = Store(tmp_path)
    other = msgspec.structs.replace(manifest, digest="1" * 64)
    Partial(store.partial(other.digest), other).close()
    get(nodes.open()[0], steps=text_steps(), store=store)
    assert len(store.directories()) == 2


CHILD = """
import sys, paceline.transport.fetch as module
from pathlib import Path
from paceline.checkpoint import Store
from paceline.checkpoint.wanted import checkpoint_steps
from paceline.transport.keys import KeyPair
from paceline.types.weights import DepotOffer, Source
home, digest, address, key, public, secret = sys.argv[1:]
module.SYNC_EVERY_S = 0.0
source = Source(node="n1", depot=DepotOffer(address=address, public_key=key))
keys = KeyPair(public, secret.encode())
module.fetch_checkpoint(
    Store(Path(home)), "small", digest, checkpoint_steps(), [source], keys, lambda _: None
)
"""


def test_whoever_is_killed_while_fetching_is_gone_on_from(get, nodes, home, manifest, tmp_path):
    class Watched(Asked):
        enough = threading.Event()

        def chunk(self, digest: str, file: int, chunk: int) -> bytes | None:
            if len(self.chunks) == 30:
                self.enough.set()
            time.sleep(0.02)
            return super().chunk(digest, file, chunk)

    source, shelf = nodes.open(Watched)
    depot = [source.depot.address, source.depot.public_key, MEMBER.public, MEMBER.secret.decode()]
    command = [sys.executable, "-c", CHILD, str(tmp_path), manifest.digest, *depot]
    with subprocess.Popen(command) as child:
        assert shelf.enough.wait(60)
        child.kill()
    directory = Store(tmp_path).partial(manifest.digest)
    kept = sum(stop - start for ((start, stop),) in Held(directory, manifest).chunks.values())
    assert kept > 0
    shelf.chunks.clear()
    get(source, steps=checkpoint_steps())
    assert len(set(shelf.chunks)) == sum(file.chunks for file in manifest.files) - kept
    for file in manifest.files:
        whole = (home / "models" / SMALL / file.name).read_bytes()
        assert (directory / file.name).read_bytes() == whole


def test_a_stranger_gets_not_a_word(get, nodes):
    source, shelf = nodes.open()
    with pytest.raises(NobodyGives, match="does not answer"):
        get(source, keys=KeyPair.fresh())
    assert shelf.chunks == []


def test_a_disk_without_room_is_seen_before_anything_moves(get, nodes, monkeypatch, home):
    source, shelf = nodes.open()
    real = module.shutil.disk_usage
    monkeypatch.setattr(module, "SPARE_BYTES", real("/").free)
    with pytest.raises(DiskFull, match="are to be fetched"):
        get(source)
    assert shelf.chunks == []
    monkeypatch.undo()
    same(get(source), home)


def test_a_chunk_on_a_slow_link_does_not_cost_the_connection(nodes, context):
    """No word is heard of a peer before the end of a frame, and a chunk is one."""
    source, _ = nodes.open(host="127.0.0.1")
    chunk_ms = 1000 * MOST_BYTES / LEAST_BYTES_PER_S
    with Givers("0" * 64, [source], MEMBER, context=context) as givers:
        for socket in (nodes.depots[-1]._socket, *givers._sockets.values()):
            assert socket.heartbeat_timeout > chunk_ms


def test_what_all_peers_wait_for_is_bounded(get, nodes, home, monkeypatch):
    sent, waits = SimpleNamespace(done=True), SimpleNamespace(done=False)
    under_way = depot.UnderWay()
    for tracker in (waits, sent, waits):
        under_way.add(tracker, 10)
    assert under_way.nbytes == 20
    waits.done = True
    assert under_way.nbytes == 0
    monkeypatch.setattr(depot, "UNDER_WAY_BYTES", 0)
    full, shelf = nodes.open()
    with pytest.raises(NobodyGives, match="cannot be had"):
        get(full)
    assert shelf.chunks == []


def test_nonsense_at_the_door_disturbs_nobody(get, nodes, home, context):
    source, _ = nodes.open()
    with context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.curve_serverkey = source.depot.public_key.encode()
        socket.curve_publickey, socket.curve_secretkey = MEMBER.public.encode(), MEMBER.secret
        socket.connect(source.depot.address)
        for words in (b"", b"\xc1", os.urandom(100), b"\x93\xa4give\xa1x\x00", b"\x92" * 2000):
            socket.send(words)
            socket.send_multipart([words, words])
        same(get(source), home)
