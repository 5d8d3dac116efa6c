"""The disk of the controller's machine: it may refuse to be written, and keeps what it has."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from paceline.controller.events import RING, EventLog
from paceline.controller.store import Store
from paceline.types.control import Event
from tests.simulation.clock import Clock

NOWHERE = Path("/nonexistent")


class Disk:
    """One store and one event log, for all controllers that ever start here."""

    def __init__(self) -> None:
        self.store = Store(Path(":memory:"))
        self.full = self.refuses = False
        self.lost_lines = 0
        self.events: deque[Event] = deque(maxlen=RING)
        """Those that were written."""

    def refuse_writes(self, refuse: bool) -> None:
        self.refuses = refuse
        self.store._db.execute(f"PRAGMA query_only = {'ON' if refuse else 'OFF'}")

    def fill(self, full: bool) -> None:
        """Neither store nor event log can write while it is full."""
        self.full = full
        self.refuse_writes(full)


class _File:
    """Stands for `paceline.process.bounded.BoundedFile`."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def write(self, line: bytes) -> bool:
        self._disk.lost_lines += self._disk.full
        return not self._disk.full

    def close(self) -> None:
        return


class SimEventLog(EventLog):
    """The real one, going on where the disk's last line is. `hear` is told of every event."""

    def __init__(self, disk: Disk, clock: Clock, hear: Any) -> None:
        super().__init__(NOWHERE, clock=clock)
        self._ring.extend(disk.events)
        self._file = _File(disk)  # type: ignore[assignment]
        self._disk = disk
        self._hear = hear

    def add(self, *said: Any, **more: Any) -> Event:
        event = super().add(*said, **more)
        if not self._disk.full:
            self._disk.events.append(event)
        self._hear(event)
        return event
