"""What is made of streams' timelines beside a long prompt."""

from __future__ import annotations

from itertools import accumulate, chain, repeat
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders import Model
from benchmarks.parts import beside
from benchmarks.parts.works import Plan
from benchmarks.report import markdown
from benchmarks.servers import Serving
from paceline.bench import Target, Timeline
from tests.support.models import smollm2_dir

SENT, FIRST = 1.0, 2.0


def _told(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    beside_s: float,
    tokens: int,
    read: list[list[int]] | None = None,
) -> str:
    """The part's table where tokens come every 10 ms, and every `beside_s` from SENT to FIRST."""
    gaps = chain(repeat(0.01, 100), repeat(beside_s, round(1 / beside_s)), repeat(0.01, tokens))
    pieces = tuple(accumulate(gaps))

    async def stream(target: Target, body: dict[str, Any], timeout_s: float) -> Timeline:
        if body["max_tokens"] == 1:
            (read if read is not None else []).append(body["prompt"])
            return Timeline(sent_at=SENT, ended_at=FIRST, pieces=(FIRST,))
        return Timeline(sent_at=0.0, ended_at=pieces[-1], pieces=pieces)

    def start_all(stack: object, chosen: object, failed: object) -> dict[str, Serving]:
        return {"Paceline int8": Serving(Target(""), "model", 1)}

    monkeypatch.setattr(beside, "BEGIN_S", 0.0)
    monkeypatch.setattr(beside, "stream", stream)
    monkeypatch.setattr(beside, "start_all", start_all)
    monkeypatch.setattr(beside, "default_model", lambda: Model(smollm2_dir(), tmp_path))
    return markdown(beside.measure(Plan(2)).tables)


def test_a_kept_promise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = _told(monkeypatch, tmp_path, beside_s=0.02, tokens=50)
    assert "| 2.00 (2.00–2.00) | kept |" in text


def test_a_broken_promise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = _told(monkeypatch, tmp_path, beside_s=0.05, tokens=50)
    assert "| 5.00 (5.00–5.00) | **broken** |" in text


def test_streams_that_end_too_early_measure_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = _told(monkeypatch, tmp_path, beside_s=0.3, tokens=0)
    assert "did not run all the time" in text


def test_no_round_reads_the_prompt_of_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: list[list[int]] = []
    _told(monkeypatch, tmp_path, beside_s=0.02, tokens=50, read=read)
    assert len(read) == 2
    assert read[0] != read[1]
