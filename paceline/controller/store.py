"""What must survive everything: the cluster's id, the term, and what users asked for: instances,
and nodes that are to be empty.

SQLite with a write-ahead log, synchronous=FULL: what was answered is on disk. Nothing is read from
here but at the start, and no recovery waits for a write.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from paceline.types.errors import Unavailable
from paceline.types.ids import InstanceId, NodeName
from paceline.types.instance import InstanceWish

BUSY_S = 2.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS cluster (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS drained (node TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS wish (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, body TEXT NOT NULL
);
"""
_PUT = "INSERT INTO wish (id, body) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body=excluded.body"
_KEEP = (
    "INSERT INTO cluster (key, value) VALUES (?, ?) "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)


class Store:
    """One writer: the holder of the home's lock is the only one that opens it."""

    def __init__(self, path: Path) -> None:
        """Raises Unavailable when it cannot be opened or is damaged."""
        self._path = path
        try:
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise self._unavailable("opened", error) from error

    def term(self) -> int:
        """The last term that was taken; 0 before the first."""
        return int(self._value("term") or 0)

    def cluster_id(self) -> str:
        """Empty before the first term."""
        return self._value("cluster_id")

    def begin_term(self, cluster_id: str, least: int = 0) -> int:
        """Takes a new term, at least `least`, in one transaction. Raises Unavailable; then nothing
        has changed."""
        with self._writing() as db:
            term = max(self.term() + 1, least)
            db.execute(_KEEP, ("cluster_id", cluster_id))
            db.execute(_KEEP, ("term", str(term)))
        return term

    def wishes(self) -> list[InstanceWish]:
        """In the order in which they were made. Raises Unavailable."""
        try:
            rows = self._db.execute("SELECT body FROM wish ORDER BY number").fetchall()
            return [msgspec.json.decode(body, type=InstanceWish) for (body,) in rows]
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise self._unavailable("read", error) from error

    def put(self, wish: InstanceWish) -> None:
        """Adds or changes a wish; it is on disk when this returns. Raises Unavailable."""
        with self._writing() as db:
            db.execute(_PUT, (wish.id, msgspec.json.encode(wish).decode()))

    def remove(self, instance: InstanceId) -> None:
        """Raises Unavailable; removing what is not there is no error."""
        with self._writing() as db:
            db.execute("DELETE FROM wish WHERE id = ?", (instance,))

    def drained(self) -> set[NodeName]:
        """Nodes that are to be empty. Raises Unavailable."""
        try:
            return {NodeName(name) for (name,) in self._db.execute("SELECT node FROM drained")}
        except sqlite3.Error as error:
            raise self._unavailable("read", error) from error

    def drain(self, node: NodeName, drained: bool) -> None:
        """It is to be empty, or no longer; on disk when this returns. Raises Unavailable."""
        order = "INSERT OR IGNORE INTO drained VALUES (?)"
        undo = "DELETE FROM drained WHERE node = ?"
        with self._writing() as db:
            db.execute(order if drained else undo, (node,))

    def close(self) -> None:
        self._db.close()

    def _value(self, key: str) -> str:
        try:
            row = self._db.execute("SELECT value FROM cluster WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._unavailable("read", error) from error
        return str(row[0]) if row else ""

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise self._unavailable("written", error) from error

    def _unavailable(self, verb: str, error: Exception) -> Unavailable:
        return Unavailable(
            f"{self._path} cannot be {verb}: {error}; free space or repair the disk, then try again"
        )
