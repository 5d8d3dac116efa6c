"""Parts with systems that answer at once: what becomes of outcomes and failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.contenders import Contender, Model
from benchmarks.parts import engine, growth, peers, recovery, works
from benchmarks.parts.works import Plan
from benchmarks.processes import Failed
from benchmarks.report import Result, markdown, show
from benchmarks.work import Outcome, Work
from tests.support.models import smollm2_dir


class Instant:
    """Takes one second more than its number for everything; one dies at 32 streams."""

    def __init__(self, number: int, dies: bool) -> None:
        self.number, self.dies = number, dies
        self.facts = {"weight_bytes": 2**20}
        self.group = SimpleNamespace(resident_bytes=lambda: 2**28)

    def run(self, work: Work) -> Outcome:
        if self.dies and work.streams == 32:
            raise Failed("it died")
        took = 1.0 + self.number
        answers = [[7] * work.new for _ in work.prompts]
        made = work.streams * (work.new - 1)
        return Outcome(took, took, made, answers, gaps_s=[took] * (work.new - 1))

    def perplexity(self, ids: list[int]) -> float:
        raise Failed("no logits")


@pytest.fixture(autouse=True)
def instant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextmanager
    def started(contenders: Sequence[Contender]) -> Iterator[object]:
        last = len(contenders) - 1
        yield {c.name: Instant(i, 0 < i == last) for i, c in enumerate(contenders)}, {}

    def all_contenders(_: Model) -> list[Contender]:
        names = ("Paceline int8", "llama.cpp A", "llama.cpp B", "dying")
        return [Contender(name=n, precision="p", module="", options={}) for n in names]

    for part in (engine, growth, peers):
        monkeypatch.setattr(part, "started", started)
        monkeypatch.setattr(part, "default_model", lambda: Model(smollm2_dir(), tmp_path))
    monkeypatch.setattr(works, "REST_S", 0.0)
    monkeypatch.setattr(peers, "all_contenders", all_contenders)
    monkeypatch.setattr(engine, "read_bytes_per_s", lambda count: 100.0 * count)
    monkeypatch.setattr(engine, "int8_products_per_s", lambda: 2.0**20 * 10_000)
    facts = SimpleNamespace(layer_params=(2**18, 2**18), head_params=2**19)
    monkeypatch.setattr(engine, "model_facts", lambda *_: facts)


def drawn(result: Result) -> str:
    show(result.tables)
    return markdown(result.tables)


def test_peers_are_compared_and_failures_told() -> None:
    text = drawn(peers.measure(Plan(2)))
    assert "| llama.cpp's best | 2.00 (2.00–2.00) |" in text
    assert "| llama.cpp B | 3.00 (3.00–3.00) |" in text
    assert "Not run: dying: it died" in text


def test_only_those_that_were_named_take_part() -> None:
    text = drawn(peers.measure(Plan(1, only=("Paceline", "llama.cpp A"))))
    assert "llama.cpp B" not in text


def test_the_engine_is_set_against_the_machines_limits() -> None:
    text = drawn(engine.measure(Plan(1, ())))
    shares = "1 MiB | 100 tok/s | 64 % | 10000 tok/s | 20 % | 5 %"
    assert f"| Paceline int8, no guesses | {shares} |" in text
    assert "Not run: Paceline float32, no guesses: it died" in text


def test_growth_has_a_row_for_each_length_and_crowd() -> None:
    (table,) = growth.measure(Plan(3)).tables
    assert len(table.rows) == len(growth.CONTEXTS) + len(growth.STREAMS) + 2


def test_a_recovery_is_told_without_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"answers": 48, "errors": 0, "pauses": 40, "pause_p50_s": 1.5, "pause_p99_s": 2.5}
    phases = {"detect": 0.1, "replace": 1.0, "replay": 0.6}
    monkeypatch.setattr(recovery, "measure_paceline", lambda: {**seen, "phases_mean_s": phases})
    monkeypatch.setattr(recovery.peers, "can_import", lambda *_: False)
    result = recovery.measure(Plan(rounds=1))
    (table,) = result.tables
    pauses = ("1.50 s", "2.50 s", "0.10 s", "1.00 s", "0.60 s")
    assert table.rows == (("Paceline", "48", "0", *pauses, "–"),)
    assert table.notes == ("Not run: llama.cpp server: not installed: `make peers` does it",)


def test_a_peer_whose_streams_all_broke_has_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"answers": 48, "errors": 48, "pauses": 0, "pause_p50_s": 0.0, "pause_p99_s": 0.0}
    monkeypatch.setattr(recovery, "measure_peer", lambda: {**seen, "back_s": 0.6})
    (table,) = recovery.measure(Plan(rounds=1, only=("llama.cpp",))).tables
    assert table.rows == (("llama.cpp server", "48", "48", *["–"] * 5, "0.60 s"),)
