"""Models on disk, on their way, and out of reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from paceline.controller.facts import ModelSeen
from paceline.controller.models import Models, progress_words
from paceline.controller.pull import Report

DEADLINE_S = 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def until(look: Callable[[], ModelSeen], holds: Callable[[ModelSeen], bool]) -> ModelSeen:
    deadline = time.monotonic() + DEADLINE_S
    while not holds(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)
    return seen


def test_a_pull_that_cannot_work_is_a_failure_with_its_reason_and_a_pause(tmp_path: Path) -> None:
    clock = Clock()
    models = Models(tmp_path, clock)
    assert models.look(["nope"]) == {"nope": ModelSeen()}
    models.pull("nope")
    models.pull("nope")
    assert models.look(["nope"])["nope"].pulling == "starting"
    seen = until(lambda: models.look(["nope"])["nope"], lambda seen: bool(seen.failure))
    assert "no model 'nope'" in seen.failure
    first_retry = seen.retry_at
    models.pull("nope")
    seen = until(lambda: models.look(["nope"])["nope"], lambda seen: not seen.pulling)
    assert seen.retry_at > first_retry
    models.close()


def test_closing_ends_a_pull(tmp_path: Path) -> None:
    models = Models(tmp_path, Clock())
    models.pull("nope")
    (pulling,) = models._pulling.values()
    models.close()
    assert pulling.child.poll() is not None


def test_a_checkpoint_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    directory = tmp_path / "models" / "torn"
    directory.mkdir(parents=True)
    (directory / "paceline.json").write_text("{}")
    seen = Models(tmp_path, Clock()).look(["torn"])["torn"]
    assert "config.json" in seen.failure
    assert seen.retry_at > 100.0


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (Report(), "starting"),
        (
            Report(stage="wheel", done_bytes=34 * 10**6, total_bytes=98 * 10**6),
            "34 % of 98 MB (wheel)",
        ),
        (Report(stage="hub", done_bytes=5 * 10**6), "5 MB (hub)"),
    ],
)
def test_progress_in_words(report: Report, words: str) -> None:
    assert progress_words(report) == words
