"""The pure parts of the benchmarks, and how they treat a system that fails."""

from __future__ import annotations

import sys
import time
import xml.etree.ElementTree
from pathlib import Path

import msgspec
import pytest

from benchmarks import report
from benchmarks.__main__ import PARTS
from benchmarks.contenders import Contender, started
from benchmarks.parts import peers as side_by_side
from benchmarks.parts.works import KINDS
from benchmarks.plot import svg
from benchmarks.processes import Failed, Worker
from benchmarks.report import Table, fill, markdown
from benchmarks.statistics import figure, interleaved, ratio
from benchmarks.text import is_sane
from benchmarks.work import Outcome, Work
from paceline.bench import quantile

PYTHON = Path(sys.executable)


def test_figures_and_ratios_of_rounds():
    found = figure([3.0, 1.0, 2.0])
    assert (found.median, found.low, found.high, found.rounds) == (2.0, 1.0, 3.0, 3)
    assert ratio([2.0, 6.0], [1.0, 2.0]).median == 2.5
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.99) == 4.0


def test_rounds_are_interleaved_to_and_fro_and_a_failure_is_kept():
    order: list[str] = []

    def job(name: str, fails: bool = False) -> str:
        order.append(name)
        if fails and order.count(name) == 2:
            raise Failed("it broke")
        return name

    jobs = {"a": lambda: job("a"), "b": lambda: job("b", True), "c": lambda: job("c")}
    found, failed = interleaved(3, jobs, Failed)
    assert order == ["a", "b", "c", "c", "b", "a", "a", "c"]
    assert (found, failed) == ({"a": ["a"] * 3, "c": ["c"] * 3}, {"b": "it broke"})


@pytest.mark.parametrize(
    ("text", "sane"),
    [
        (" and the use of electronic texts in the library.\n\nThe second point is", True),
        ("the the the the the the the the the the the the the the the", False),
        ("�� 87 $$ 4 ]] 0 9 1 __ 33 {} 77 // 8 !! 5", False),
        ("", False),
    ],
)
def test_text_is_told_from_noise(text: str, sane: bool):
    assert is_sane(text) is sane


def test_rates_count_generated_tokens_only():
    outcome = Outcome(prefill_s=2.0, decode_s=4.0, decoded=128, answers=[])
    assert KINDS["1 stream"].tokens_per_s(outcome) == 32.0
    assert KINDS["prefill, 500"].tokens_per_s(outcome) == 5 * 250.0


def test_the_best_peer_is_chosen_for_each_kind_of_work():
    def row(name: str, *rates: float) -> side_by_side.Row:
        return side_by_side.Row(
            name=name, rates=dict(zip(KINDS, ([rate] for rate in rates), strict=True)),
            perplexity=1.0, resident_bytes=0, insane=0, answers=1, sample="",
        )  # fmt: skip

    rows = {
        r.name: r for r in (row("p a", 1, 9, 3, 4), row("p b", 5, 2, 7, 1), row("q", *[99] * 4))
    }
    assert [found for (found,) in side_by_side.best_of(rows, "p").values()] == [5, 9, 7, 4]


def test_docs_are_filled_between_their_markers_only():
    table = Table(title="T", columns=("a", "b"), rows=(("1", "2"),), notes=("Not run: x.",))
    text = "before\n<!-- p -->\nold\n<!-- /p -->\nafter"
    filled = fill(text, "p", markdown([table]))
    assert filled.startswith("before\n<!-- p -->\n**T**\n\n| a | b |\n| --- | --- |\n| 1 | 2 |")
    assert "old" not in filled
    assert filled.endswith("Not run: x.\n<!-- /p -->\nafter")
    assert fill(filled, "p", markdown([table])) == filled
    with pytest.raises(ValueError, match="0 times"):
        fill("no marker", "p", "")


def test_every_part_has_its_place_in_the_document():
    text = report.DOCUMENT.read_text()
    for part in PARTS:
        fill(text, part, "")


def test_the_picture_is_well_formed_and_its_bars_are_in_proportion():
    rates = {"Paceline <int8>": {"1 stream": [10.0, 20.0, 30.0]}, "other": {"1 stream": [10.0]}}
    root = xml.etree.ElementTree.fromstring(svg(rates))
    _, *rectangles = root.iter("{http://www.w3.org/2000/svg}rect")
    bars = [float(rectangle.get("width")) for rectangle in rectangles]
    assert bars[0] == pytest.approx(2 * bars[1], abs=0.2)


SYSTEM = """
import sys, time
from benchmarks.work import Outcome
from benchmarks.worker import serve

class System:
    def start(self, options):
        print("chatter of a library")
        if options.get("broken"):
            raise RuntimeError("no such model")
        return {"pid": __import__("os").getpid()}

    def run(self, work):
        if work.new == 13:
            time.sleep(60)
        if work.new == 14:
            sys.exit("last words")
        return Outcome(1.0, 2.0, 3, [[work.new]])

    def perplexity(self, ids):
        return float(sum(ids))

if __name__ == "__main__":
    serve(System())
"""


@pytest.fixture
def system(tmp_path: Path) -> Contender:
    (tmp_path / "a_system.py").write_text(SYSTEM)
    root = Path(report.__file__).parent.parent
    return Contender(
        name="it", precision="none", module="a_system", options={},
        env={"PYTHONPATH": f"{root}:{tmp_path}"},
    )  # fmt: skip


def test_a_system_answers_through_its_pipe(system: Contender):
    with started([system]) as (workers, failed):
        assert not failed
        worker = workers["it"]
        assert worker.run(Work([[1, 2]], 5)) == Outcome(1.0, 2.0, 3, [[5]])
        assert worker.perplexity([1, 2, 3]) == 6.0
        assert worker.group.resident_bytes() > 0
    assert worker.group.process.poll() is not None


def test_a_system_that_cannot_start_is_told_and_left_out(system: Contender):
    broken = msgspec.structs.replace(system, name="broken", options={"broken": True})
    missing = msgspec.structs.replace(system, name="missing", missing="not installed")
    with started([broken, missing, system]) as (workers, failed):
        assert list(workers) == ["it"]
        assert failed == {"broken": "RuntimeError: no such model", "missing": "not installed"}


def test_a_system_that_dies_says_its_last_words(system: Contender):
    with started([system]) as (workers, _), pytest.raises(Failed, match="last words"):
        workers["it"].run(Work([[1]], 14))


def test_a_system_that_hangs_is_ended_at_its_deadline(system: Contender, monkeypatch):
    monkeypatch.setattr("benchmarks.processes.RUN_S", 0.3)
    with started([system]) as (workers, _):
        worker: Worker = workers["it"]
        with pytest.raises(Failed, match=r"within 0\.3 s"):
            worker.run(Work([[1]], 13))
        deadline = time.monotonic() + 10
        while worker.group.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert worker.group.process.poll() is not None
