"""What is on disk, and what happens when it cannot be written."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from paceline.controller.controller import open_book, take_term
from paceline.controller.store import Store
from paceline.types.errors import Unavailable
from paceline.types.instance import InstanceWish


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def blocked(path: Path) -> Iterator[Store]:
    """A store whose every write fails, as on a full disk."""
    store = Store(path)
    store.begin_term("c")
    store.put(InstanceWish(id="i-1", model="m"))
    store._db.execute("PRAGMA query_only = ON")
    yield store
    store.close()


def wish(name: str, **fields: object) -> InstanceWish:
    return InstanceWish(id=name, model="m", **fields)


def test_each_start_takes_a_new_term(path: Path) -> None:
    terms = []
    for _ in range(3):
        store = Store(path)
        terms.append(store.begin_term("c"))
        store.close()
    assert terms == [1, 2, 3]


def test_a_term_can_be_asked_to_be_beyond_one_that_was_seen(path: Path) -> None:
    store = Store(path)
    assert store.begin_term("c", least=9) == 9
    assert store.begin_term("c", least=3) == 10
    assert store.term() == 10
    assert store.cluster_id() == "c"


def test_wishes_survive_in_their_order(path: Path) -> None:
    store = Store(path)
    for name in ("i-2", "i-1", "i-3"):
        store.put(wish(name))
    store.put(wish("i-1", deleted=True))
    store.remove("i-2")
    store.remove("i-2")
    store.close()
    again = Store(path)
    assert again.wishes() == [wish("i-1", deleted=True), wish("i-3")]


def test_it_is_written_through_to_the_disk(path: Path) -> None:
    store = Store(path)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    store.put(wish("i-1"))
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT id FROM wish").fetchall() == [("i-1",)]


def test_a_write_that_fails_is_told_and_changes_nothing(blocked: Store) -> None:
    with pytest.raises(Unavailable, match="cannot be written"):
        blocked.put(wish("i-2"))
    with pytest.raises(Unavailable, match="cannot be written"):
        blocked.remove("i-1")
    with pytest.raises(Unavailable, match="cannot be written"):
        blocked.begin_term("c")
    assert blocked.wishes() == [wish("i-1")]
    assert blocked.term() == 1
    blocked._db.execute("PRAGMA query_only = OFF")
    blocked.put(wish("i-2"))
    assert len(blocked.wishes()) == 2


def test_a_controller_starts_without_being_able_to_write(blocked: Store) -> None:
    book = open_book(blocked, "c")
    assert book.term == 2
    assert book.instances["i-1"].inherited
    assert take_term(blocked, "c", least=7) == 7


def test_another_writer_is_waited_for_and_then_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paceline.controller.store.BUSY_S", 0.05)
    store = Store(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        store.put(wish("i-1"))
    other.execute("ROLLBACK")
    store.put(wish("i-1"))
    other.close()


@pytest.mark.parametrize("content", [b"not a database at all, by any means", b"\0" * 4096])
def test_a_damaged_file_is_refused_by_name(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(Unavailable, match=r"store\.sqlite cannot be opened"):
        Store(path)
