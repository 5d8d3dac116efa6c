"""A checkpoint of which only a part is here: what is in its record is there, whatever happens, and
nothing else is ever read."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.checkpoint import partial as module
from paceline.checkpoint.chunks import MOST_BYTES, chunk_hash
from paceline.checkpoint.facts import Checkpoint
from paceline.checkpoint.import_dir import import_dir
from paceline.checkpoint.manifest import (
    CACHE_NAME,
    MANIFEST_NAME,
    RECORD_NAME,
    Manifest,
    StoredFile,
    content_digest,
    describe,
    trusted_manifest,
)
from paceline.checkpoint.partial import (
    DiskFull,
    Held,
    Partial,
    WrongBytes,
    is_whole,
    whole,
)
from paceline.checkpoint.store import STALE_S, Store
from paceline.checkpoint.wanted import shard_steps
from paceline.engine.stage import Stage
from paceline.types.errors import CheckpointDamaged, CheckpointError, NotFound
from paceline.types.model import Shard
from tests.support.small import LAYERS, write_small

CHUNK = 64


def cut(name: str, data: bytes, chunk_bytes: int = CHUNK) -> StoredFile:
    chunks = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
    hashes = b"".join(chunk_hash(chunk) for chunk in chunks)
    return StoredFile(name=name, size=len(data), chunk_bytes=chunk_bytes, hashes=hashes)


def made(**contents: bytes) -> Manifest:
    files = tuple(cut(name, data) for name, data in sorted(contents.items()))
    return Manifest(name="m", source="a test", files=files, digest=content_digest(files))


DATA = os.urandom(10 * CHUNK + 5)


def piece(chunk: int) -> bytes:
    return DATA[chunk * CHUNK : (chunk + 1) * CHUNK]


@pytest.fixture
def manifest() -> Manifest:
    return made(a=DATA, b=b"")


def test_what_is_kept_is_there_for_the_next_one(tmp_path, manifest):
    with Partial(tmp_path / "p", manifest) as partial:
        assert len(list(partial.missing(whole(manifest)))) == 11
        for chunk in (3, 10, 4):
            partial.keep(0, chunk, piece(chunk))
    with Partial(tmp_path / "p", manifest) as again:
        left = list(again.missing({0: ((2, 11),)}))
        assert left == [(0, chunk) for chunk in (2, 5, 6, 7, 8, 9)]
        for file, chunk in again.missing(whole(manifest)):
            again.keep(file, chunk, piece(chunk))
    assert (tmp_path / "p" / "a").read_bytes() == DATA
    assert (tmp_path / "p" / "b").read_bytes() == b""
    assert is_whole(manifest, Held(tmp_path / "p", manifest).chunks)


@pytest.mark.parametrize(
    "wrong", [piece(3), piece(2)[:-1], b"", piece(2)[:-1] + b"!"], ids=range(4)
)
def test_other_bytes_change_nothing(tmp_path, manifest, wrong):
    with Partial(tmp_path / "p", manifest) as partial, pytest.raises(WrongBytes):
        partial.keep(0, 2, wrong)
    assert set((tmp_path / "p" / "a").read_bytes()) == {0}
    assert Held(tmp_path / "p", manifest).chunks == {}


def test_two_may_fill_it_at_once(tmp_path, manifest):
    with Partial(tmp_path / "p", manifest) as one, Partial(tmp_path / "p", manifest) as other:
        for chunk in range(11):
            (one if chunk % 2 else other).keep(0, chunk, piece(chunk))
    assert (tmp_path / "p" / "a").read_bytes() == DATA
    assert is_whole(manifest, Held(tmp_path / "p", manifest).chunks)


@settings(max_examples=60, deadline=None)
@given(cut_at=st.integers(0, 60), after=st.lists(st.integers(0, 10), max_size=4))
def test_a_record_that_a_crash_cut_short_claims_nothing_that_is_not_there(
    tmp_path_factory, cut_at, after
):
    manifest = made(a=DATA)
    directory = tmp_path_factory.mktemp("cut")
    with Partial(directory, manifest) as partial:
        for chunk in (1, 2, 10):
            partial.keep(0, chunk, piece(chunk))
            partial.sync()
    record = directory / RECORD_NAME
    record.write_bytes(record.read_bytes()[:cut_at])
    with Partial(directory, manifest) as partial:
        for chunk in after:
            partial.keep(0, chunk, piece(chunk))
    ranges = Held(directory, manifest).chunks.get(0, ())
    claimed = {chunk for start, stop in ranges for chunk in range(start, stop)}
    assert set(after) <= claimed <= {1, 2, 10, *after}


def test_whoever_is_killed_leaves_what_the_record_says_and_no_more(tmp_path):
    """Killed in the middle of keeping chunks, again and again, until all are there."""
    script = (
        "import sys; from pathlib import Path; from paceline.checkpoint.manifest import *\n"
        "from paceline.checkpoint.partial import *\n"
        "import paceline.checkpoint.partial as p; p.SYNC_BYTES = 1 << 20\n"
        "source, target = Path(sys.argv[1]), Path(sys.argv[2]); m = describe(source, 'm', 's')\n"
        "data = (source / 'weights').read_bytes()\n"
        "with Partial(target, m) as partial:\n"
        "    for file, chunk in partial.missing(whole(m)):\n"
        "        a, b = m.files[file].range_of(chunk); partial.keep(file, chunk, data[a:b])\n"
        "        print(chunk, flush=True)\n"
    )
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    data = os.urandom(6 << 20)
    (source / "weights").write_bytes(data)
    manifest = describe(source, "m", "s")
    seen: list[int] = []
    for until in (9, 9, 99):
        command = [sys.executable, "-c", script, str(source), str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            for line, _ in zip(child.stdout, range(until), strict=False):
                seen.append(int(line))
            child.send_signal(signal.SIGKILL)
        held = Held(target, manifest)
        filled = (target / "weights").read_bytes()
        for start, stop in held.chunks.get(0, ()):
            low, high = start << 18, stop << 18
            assert filled[low:high] == data[low:high]
    assert is_whole(manifest, held.chunks)
    assert 24 < len(seen) <= 24 + 2 * 8, "what was in the record was kept again"


def test_a_full_disk_says_so_and_keeps_what_came(tmp_path, manifest, monkeypatch):
    def no_room(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Partial(tmp_path / "p", manifest) as partial:
        partial.keep(0, 0, piece(0))
        with monkeypatch.context() as patch:
            patch.setattr(module.os, "pwrite", no_room)
            with pytest.raises(DiskFull, match="disk is full"):
                partial.keep(0, 1, piece(1))
    assert Held(tmp_path / "p", manifest).chunks == {0: ((0, 1),)}


def test_what_a_failed_sync_lost_is_never_in_the_record(tmp_path, manifest, monkeypatch):
    """The system tells of it once, and the next sync succeeds."""

    def lost(_: int) -> None:
        monkeypatch.undo()
        raise OSError(errno.EIO, "Input/output error")

    partial = Partial(tmp_path / "p", manifest)
    partial.keep(0, 3, piece(3))
    monkeypatch.setattr(module.os, "fdatasync", lost)
    with pytest.raises(CheckpointError, match="cannot be written"):
        partial.sync()
    partial.close()
    assert Held(tmp_path / "p", manifest).chunks == {}


def test_a_record_that_outlived_its_files_counts_for_nothing(tmp_path, manifest):
    """As a removal leaves it that was cut short."""
    with Partial(tmp_path / "p", manifest) as partial:
        partial.keep(0, 3, piece(3))
    (tmp_path / "p" / CACHE_NAME).mkdir()
    for name in ("a", MANIFEST_NAME):
        (tmp_path / "p" / name).unlink()
    with Partial(tmp_path / "p", manifest) as again:
        assert len(list(again.missing(whole(manifest)))) == 11
    assert Held(tmp_path / "p", manifest).chunks == {}
    assert not (tmp_path / "p" / CACHE_NAME).exists()


def test_what_goes_into_files_that_were_removed_is_not_in_the_new_record(tmp_path, manifest):
    store = Store(tmp_path)
    directory = store.partial(manifest.digest)
    with Partial(directory, manifest) as early:
        early.keep(0, 3, piece(3))
        assert store.drop_partials("m")
        with Partial(directory, manifest) as late:
            late.keep(0, 4, piece(4))
        early.keep(0, 5, piece(5))
        with pytest.raises(CheckpointError, match="cannot be written"):
            early.sync()
    assert Held(directory, manifest).chunks == {0: ((4, 5),)}
    assert [each.name for each in directory.parent.iterdir()] == [manifest.digest]


def test_a_strangers_manifest_is_taken_only_if_it_is_the_one(manifest):
    packed = msgspec.msgpack.encode(manifest)
    assert trusted_manifest(packed, manifest.digest) == manifest
    other = made(a=DATA + b"!")
    lie = msgspec.structs.replace(other, digest=manifest.digest)
    for wrong in (msgspec.msgpack.encode(lie), msgspec.msgpack.encode(other), b"\xc1", b""):
        with pytest.raises(CheckpointError):
            trusted_manifest(wrong, manifest.digest)


@pytest.mark.parametrize(
    "name",
    [
        "../a",
        "/etc/passwd",
        ".x",
        "held.log",
        "paceline.json",
        CACHE_NAME,
        "",
        "a/b",
        ".",
        "a\0b",
        "a\nb",
    ],
)
def test_no_manifest_leads_out_of_its_directory(name):
    files = (cut(name, DATA),)
    evil = Manifest(name="m", source="s", files=files, digest=content_digest(files))
    with pytest.raises(CheckpointError, match="names files"):
        trusted_manifest(msgspec.msgpack.encode(evil), evil.digest)


def test_no_manifest_asks_for_chunks_larger_than_any(manifest):
    files = (cut("a", DATA, MOST_BYTES + 1),)
    evil = Manifest(name="m", source="s", files=files, digest=content_digest(files))
    with pytest.raises(CheckpointError, match="names files"):
        trusted_manifest(msgspec.msgpack.encode(evil), evil.digest)


def test_a_file_that_is_not_as_it_was_made_is_damage(tmp_path, manifest):
    with Partial(tmp_path / "p", manifest) as partial:
        partial.keep(0, 3, piece(3))
    os.truncate(tmp_path / "p" / "a", CHUNK)
    with pytest.raises(CheckpointDamaged, match="not as long"):
        Partial(tmp_path / "p", manifest)


# --- as a checkpoint -----------------------------------------------------------------------------


def part_of(source: Path, target: Path, shard: Shard) -> Manifest:
    """What a rank needs of a checkpoint, as if fetched."""
    manifest = describe(source, "small", "a test")
    with Partial(target, manifest) as partial:
        for step in shard_steps(shard):
            for file, chunk in partial.missing(step(target, manifest)):
                described = manifest.files[file]
                start, stop = described.range_of(chunk)
                with (source / described.name).open("rb") as opened:
                    opened.seek(start)
                    partial.keep(file, chunk, opened.read(stop - start))
            partial.sync()
    return manifest


def shard(start: int, stop: int) -> Shard:
    return Shard(start=start, stop=stop, layers=LAYERS)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return write_small(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_rank_loads_from_its_part_what_it_loads_from_the_whole(small, tmp_path, dtype):
    for start, stop in ((0, 3), (3, LAYERS)):
        target = tmp_path / f"{start}"
        part_of(small, target, shard(start, stop))
        mine = Stage.load(target, shard(start, stop), dtype=dtype, kv_pages=1)
        same = Stage.load(small, shard(start, stop), dtype=dtype, kv_pages=1)
        assert mine.weight_bytes == same.weight_bytes
        pairs = zip(mine.weights.layers, same.weights.layers, strict=True)
        for one, other in pairs:
            assert one.attn_norm.weight.equal(other.attn_norm.weight)


def test_a_part_is_never_taken_for_more_than_it_is(small, tmp_path):
    """Neither zeros of a hole in a file, nor a cache made of them: the load of another shard
    fails, and says what to do."""
    target = tmp_path / "part"
    manifest = part_of(small, target, shard(0, 1))
    assert not is_whole(manifest, Held(target, manifest).chunks)
    with Checkpoint(target) as opened, pytest.raises(CheckpointError, match="fetch the shard"):
        opened.files.read("model.layers.5.mlp.down_proj.weight")
    for dtype in ("float32", "int8"):
        with pytest.raises(CheckpointError, match="fetch the shard"):
            Stage.load(target, shard(0, LAYERS), dtype=dtype, kv_pages=1)


def test_a_part_cannot_be_imported_as_a_checkpoint(small, tmp_path):
    part_of(small, tmp_path / "part", shard(0, 1))
    with pytest.raises(CheckpointError, match="with holes"):
        import_dir(tmp_path / "part", Store(tmp_path), "mine")


def test_the_store_never_shows_a_part_as_a_whole(small, tmp_path):
    store = Store(tmp_path)
    digest = describe(small, "small", "a test").digest
    part_of(small, store.partial(digest), shard(0, 1))
    assert not store.has("small")
    assert store.names() == []
    assert store.whole("small", digest) is None
    with pytest.raises(NotFound):
        store.path("small")
    assert store.directories() == (store.partial(digest),)
    store.remove("small")
    assert store.directories() == ()


@pytest.mark.parametrize("digest", ["", "..", "../../x", "a" * 63, "headers:" + "a" * 56])
def test_no_digest_leads_out_of_the_store(tmp_path, digest):
    with pytest.raises(CheckpointError, match="no digest"):
        Store(tmp_path).partial(digest)


def test_what_was_fetched_of_another_content_of_a_model_goes(tmp_path, manifest):
    store, other = Store(tmp_path), made(a=DATA[:-1])
    for each in (manifest, other):
        Partial(store.partial(each.digest), each).close()
    assert store.drop_partials("m", keep=other.digest)
    assert store.directories() == (store.partial(other.digest),)
    assert not store.drop_partials("m", keep=other.digest)


def test_what_the_dead_left_of_a_part_goes_once_it_is_old(tmp_path, manifest):
    store = Store(tmp_path)
    kept = store.partial(manifest.digest)
    Partial(kept, manifest).close()
    halves = [store.partial("1" * 64), kept.parent / f".{'2' * 64}-abcd", kept / ".manifest-abcd"]
    fresh = store.partial("3" * 64)
    for half in (*halves, fresh):
        half.mkdir()
    old = time.time() - STALE_S - 60
    for half in halves:
        os.utime(half, (old, old))
    os.utime(kept, (old, old))
    assert not store.drop_partials("another")
    assert sorted(kept.parent.iterdir()) == sorted([kept, fresh])
    assert not halves[-1].exists()
