"""The event log: numbered, bounded, and harmless."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.controller import events
from paceline.controller.events import FILE_NAME, EventLog


def test_events_are_numbered_and_asked_for_by_number(tmp_path: Path) -> None:
    log = EventLog(tmp_path, clock=lambda: 5.0)
    assert log.newest == 0
    for name in "abc":
        log.add("kind", f"sentence {name}", {"name": name})
    assert [event.number for event in log.since(1)] == [2, 3]
    assert [event.sentence for event in log.since(0, limit=2)] == ["sentence a", "sentence b"]
    assert log.since(2)[0].facts == {"name": "c"}


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    first = EventLog(tmp_path)
    first.add("kind", "before")
    first.close()
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(b'{"number": 2, "torn')
    second = EventLog(tmp_path)
    second.add("kind", "after")
    assert [(e.number, e.sentence) for e in second.since(0)] == [(1, "before"), (2, "after")]


def test_memory_and_file_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "RING", 10)
    monkeypatch.setattr(events, "FILE_BYTES", 2000)
    log = EventLog(tmp_path)
    for _ in range(200):
        log.add("kind", "a sentence of some length")
    assert len(log.since(0)) == 10
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * 2000


def test_a_log_that_cannot_be_written_hurts_nobody(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where a directory should be")
    log = EventLog(tmp_path / "logs")
    log.add("kind", "said all the same")
    assert log.newest == 1
