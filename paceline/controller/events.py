"""The event log: a bounded ring in memory and a bounded file beside it. It never raises."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from paceline.process.bounded import BoundedFile
from paceline.process.logs import get_logger
from paceline.types.control import Event

RING = 2000
FILE_BYTES = 4 * 2**20
BACKUPS = 1
FILE_NAME = "events.jsonl"

log = get_logger("events")


class EventLog:
    """Numbers go on where the file of an earlier controller ends, as far as it can be read."""

    def __init__(self, logs: Path, clock: Callable[[], float] = time.time) -> None:
        """`clock`: Unix seconds, for people."""
        path = logs / FILE_NAME
        self.counts: Counter[str] = Counter()
        """Events of this process, by kind."""
        self._clock = clock
        self._ring: deque[Event] = deque(_last(path), maxlen=RING)
        self._file = BoundedFile(path, max_bytes=FILE_BYTES, backups=BACKUPS)

    @property
    def newest(self) -> int:
        """The number of the newest event; 0 before the first."""
        return self._ring[-1].number if self._ring else 0

    def add(
        self,
        kind: str,
        sentence: str,
        facts: dict[str, Any] | None = None,
        about: dict[str, Any] | None = None,
    ) -> Event:
        """`about`: whom it concerns. It is in the log's line, and in the facts where they have no
        word of that name."""
        about = about or {}
        event = Event(
            number=self.newest + 1,
            at=self._clock(),
            kind=kind,
            sentence=sentence,
            facts=about | (facts or {}),
        )
        self._ring.append(event)
        self.counts[kind] += 1
        self._file.write(msgspec.json.encode(event))
        log.info("decision", kind=kind, sentence=sentence, **about)
        return event

    def since(self, number: int, limit: int = RING) -> list[Event]:
        """The oldest `limit` events of those after `number` that are still kept."""
        newer = [event for event in self._ring if event.number > number]
        return newer[:limit]

    def close(self) -> None:
        self._file.close()


def _last(path: Path) -> Iterator[Event]:
    try:
        lines = path.read_bytes().splitlines()[-RING:]
    except OSError:
        return
    decoder = msgspec.json.Decoder(Event)
    for line in lines:
        try:
            yield decoder.decode(line)
        except msgspec.DecodeError:
            continue
