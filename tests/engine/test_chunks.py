"""Prompts share a step: the short ones do not wait, and nobody waits for ever."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.engine.chunks import FIRST_COMER, share_out
from paceline.engine.stepcost import StepCost
from paceline.types.ids import StreamId
from tests.engine.test_prefix import tale, telling
from tests.engine.test_scheduler import drain, ends, fill, line_of, make

PENDING = st.dictionaries(st.integers(0, 99), st.integers(1, 5000), max_size=20)


@settings(deadline=None)
@given(PENDING, st.integers(0, 1000))
def test_no_row_is_lost_and_none_is_given_twice(pending: dict[int, int], budget: int) -> None:
    rows = share_out(pending, budget)
    assert sum(rows.values()) == min(budget, sum(pending.values()))
    assert all(0 < count <= pending[slot] for slot, count in rows.items())


@settings(deadline=None)
@given(PENDING, st.integers(1, 1000))
def test_who_came_first_has_its_part(pending: dict[int, int], budget: int) -> None:
    for first in list(pending)[:1]:
        assert share_out(pending, budget)[first] >= min(pending[first], budget / FIRST_COMER)


@settings(deadline=None)
@given(PENDING, st.integers(0, 1000))
def test_of_the_others_those_with_more_left_wait(pending: dict[int, int], budget: int) -> None:
    rows = share_out(pending, budget)
    others = list(pending)[1:]
    for slot in others:
        if rows.get(slot, 0) < pending[slot]:
            assert not any(rows.get(o) for o in others if pending[o] > pending[slot])


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    scheduler = make(pages=100, max_context=8000, row_budget=64)
    line = line_of(budget=64)
    scheduler.submit(telling("long", tale(4000)))
    fill(scheduler, line, limit=1)
    scheduler.submit(telling("short", tale(90, start=2)))
    for _ in range(3):
        scheduler.complete(line.run())
        fill(scheduler, line, limit=1)
    assert scheduler.running == 1, "the short one is through"
    assert len(ends(drain(scheduler, line))) == 1


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=8), st.integers(4, 64))
def test_a_long_prompt_is_through_in_bounded_time_whoever_comes(
    shorts: list[int], budget: int
) -> None:
    """Short prompts come as fast as they are served."""
    scheduler = make(pages=400, max_context=8000, row_budget=budget, max_waiting=2, max_running=4)
    line = line_of(budget=budget)
    scheduler.submit(telling("long", tale(1000)))
    finished: set[StreamId] = set()
    steps, came = 0, 0
    while "long" not in finished:
        while scheduler.waiting < 2:
            length = shorts[came % len(shorts)]
            scheduler.submit(telling(f"s{came}", tale(length, start=came)))
            came += 1
        fill(scheduler, line, limit=1)
        finished |= {end.stream_id for end in scheduler.complete(line.run()).finished}
        steps += 1
        assert steps <= FIRST_COMER * 1000 / budget + 1


def test_chunks_of_one_prompt_are_on_all_ranks_at_once() -> None:
    scheduler = make(batches_in_flight=3, cost=StepCost(512, ranks=3))
    line = line_of(3)
    scheduler.submit(telling("a", tale(700)))
    steps = fill(scheduler, line)
    assert [(span.start, span.count) for step in steps for span in step.spans] == [
        (0, 128),
        (128, 128),
        (256, 128),
    ]
    assert len(ends(drain(scheduler, line))) == 1


def test_a_prompt_beside_a_stream_of_another_batch_keeps_to_its_measure_too() -> None:
    cost = StepCost(512, ranks=2)
    scheduler = make(batches_in_flight=2, cost=cost)
    line = line_of(2)
    scheduler.submit(telling("decodes", tale(4), max_tokens=50))
    fill(scheduler, line)
    scheduler.complete(line.run())
    cost.measured(1, 0, 0.010)
    cost.measured(1, 32, 0.010 + 32 * 0.0006)
    scheduler.submit(telling("prompt", tale(400, start=2)))
    with_stream, without = fill(scheduler, line)
    assert sorted(span.count for span in with_stream.spans) == [1, 24]
    assert [span.count for span in without.spans] == [24]
