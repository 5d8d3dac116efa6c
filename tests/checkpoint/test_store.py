"""The store shows whole checkpoints only, to any number of processes."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from paceline.checkpoint import Store
from paceline.checkpoint.manifest import content_digest
from paceline.types.errors import CheckpointError, DeadlineExceeded, InvalidRequest, NotFound


def add(store: Store, name: str, text: str = "{}") -> Path:
    with store.staging(name) as staged:
        (staged / "config.json").write_text(text)
        return store.adopt(staged, name, "a test")


@contextmanager
def busy_elsewhere(store: Store, name: str) -> Iterator[None]:
    """Another process is building `name`, and will never finish."""
    script = (
        "import sys, time; from pathlib import Path; from paceline.checkpoint.store import Store\n"
        "with Store(Path(sys.argv[1])).staging(sys.argv[2]) as staged:\n"
        "    (staged / 'half').write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(store.home), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            child.kill()


def test_adopted_checkpoints_are_listed_with_their_contents(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = add(store, "b")
    add(store, "a")
    assert store.names() == ["a", "b"]
    assert store.has("a")
    assert store.path("b") == path
    [first, second] = map(store.manifest, store.names())
    assert first.digest == second.digest == content_digest(first.files)
    assert (first.source, first.total_bytes) == ("a test", 2)
    assert [file.name for file in first.files] == ["config.json"]


def test_the_digest_is_of_the_contents(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, "a", "1")
    before = store.manifest("a").digest
    add(store, "a", "2")
    assert store.manifest("a").digest != before
    assert (store.path("a") / "config.json").read_text() == "2"
    assert not any((tmp_path / "staging").iterdir())


def test_a_failure_while_building_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, "a", "old")
    with suppress(RuntimeError), store.staging("a") as staged:
        (staged / "config.json").write_text("half")
        raise RuntimeError
    assert (store.path("a") / "config.json").read_text() == "old"
    assert not any((tmp_path / "staging").iterdir())


def test_remove(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, "a")
    add(store, "b")
    store.remove("a")
    assert store.names() == ["b"]
    assert not any((tmp_path / "staging").iterdir())
    with pytest.raises(NotFound, match=r"'a' is not in the store .*holds: b"):
        store.remove("a")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", "/etc", "a\0", "a b", ".a", "x" * 97]
)
def test_names_cannot_leave_the_store(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for ask in (store.has, store.path, store.remove, store.downloads):
        with pytest.raises(InvalidRequest, match="not a model name"):
            ask(name)
    with pytest.raises(InvalidRequest), store.staging(name):
        pass


def test_an_empty_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "nowhere")
    assert store.names() == []
    store.clean()
    with pytest.raises(NotFound, match="nothing yet"):
        store.path("a")
    assert not (tmp_path / "nowhere").exists()


def test_a_name_that_another_process_builds_is_waited_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    waits = []
    with busy_elsewhere(store, "a"):
        assert not store.has("a")
        with (
            pytest.raises(DeadlineExceeded, match="another process has been busy with model 'a'"),
            store.locked("a", 0.2, lambda: waits.append("told")),
        ):
            pass
        add(store, "b")
    assert waits == ["told"]
    assert store.names() == ["b"]


def test_what_a_dead_process_left_is_cleaned_and_a_living_one_is_let_be(tmp_path: Path) -> None:
    store = Store(tmp_path)
    half = tmp_path / "staging" / "a" / "new" / "half"
    with busy_elsewhere(store, "a"):
        store.clean()
        assert half.exists()
    assert half.exists()
    store.clean()
    assert not half.exists()
    assert not store.has("a")


def test_staging_starts_empty_after_a_crash(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with busy_elsewhere(store, "a"):
        pass
    with store.staging("a") as staged:
        assert list(staged.iterdir()) == []


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def work() -> None:
        with Store(tmp_path).locked("a"), Store(tmp_path).locked("a"):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            threading.Event().wait(0.01)
            inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_a_broken_manifest_names_its_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = add(store, "a") / "paceline.json"
    path.write_text('{"name": 3}')
    with pytest.raises(CheckpointError, match=r"a/paceline\.json: not a manifest"):
        store.manifest("a")
