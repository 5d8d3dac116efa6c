"""What `paceline chaos` counts, without a cluster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from paceline.bench import quantile
from paceline.cli.chaos import Report, _add
from paceline.cli.listening import Listener, pauses


def heard(ids: list[int], error: str = "", heard_at: tuple[float, ...] = ()) -> Any:
    listener = SimpleNamespace(
        reply=SimpleNamespace(token_ids=ids), error=error, heard_at=list(heard_at)
    )
    listener.pause_at = lambda moment: Listener.pause_at(listener, moment)
    return listener


@pytest.mark.parametrize(
    ("got", "lost", "repeated"),
    [
        ([1, 2, 3, 4], 0, 0),
        ([1, 2, 4], 1, 0),
        ([1, 2, 2, 3, 4], 0, 1),
        ([1, 2, 9, 4], 1, 1),
        ([], 4, 0),
    ],
)
def test_what_is_lost_and_what_is_repeated(got: list[int], lost: int, repeated: int) -> None:
    report = Report(model="m", ranks=2, kills=1)
    _add(report, heard(got), [1, 2, 3, 4])
    assert (report.answers, report.tokens) == (1, len(got))
    assert (report.lost, report.repeated) == (lost, repeated)
    assert report.is_unbroken == (got == [1, 2, 3, 4])


def test_an_error_is_counted_and_told() -> None:
    report = Report(model="m", ranks=2, kills=1)
    _add(report, heard([1], error="the stream failed"), [1])
    assert report.sentence == "1 errors, 0 lost, 0 repeated"
    assert report.said == ["the stream failed"]
    assert not report.is_unbroken


def test_pauses_are_those_around_a_kill() -> None:
    listeners = [heard([], heard_at=(1.0, 2.0, 5.0)), heard([], heard_at=(1.0, 1.5))]
    assert pauses(listeners, [1.2, 3.0]) == [0.5, 1.0, 3.0]
    assert pauses(listeners, [0.5, 9.0]) == []


def test_what_was_on_its_way_at_a_kill_does_not_end_the_pause() -> None:
    listeners = [heard([], heard_at=(1.0, 1.1, 1.15, 4.0, 4.1, 9.0))]
    assert pauses(listeners, [1.05]) == [pytest.approx(2.85)]


def test_percentiles_are_values_that_were_there() -> None:
    ordered = [1.0, 2.0, 3.0, 4.0]
    assert [quantile(ordered, share) for share in (0.0, 0.5, 0.99)] == [1.0, 2.0, 4.0]
    assert quantile([], 0.5) == 0.0
