"""A step's prompt rows follow what steps are measured to take, on machines of every speed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.engine.stepcost import LEAST_ROWS, MOST_CROWD, STALE_STEPS, STRETCH, StepCost

SPEEDS = st.floats(1e-3, 0.2)
ROW_SHARES = st.floats(1e-3, 0.3)
"""What a prompt row costs, as a part of a step without any."""


def decode_only(cost: StepCost, rows: int, took_s: float, times: int = 20) -> None:
    for _ in range(times):
        cost.measured(rows, 0, took_s)


def with_prompts(
    cost: StepCost, rows: int, decode_s: float, row_s: float, crowd: float = 1.0
) -> None:
    """Steps of as many prompt rows as are wanted, on a machine where they cost `row_s` each."""
    for _ in range(50):
        prompt = cost.prompt_rows(rows, 4000, crowd)
        cost.measured(rows, prompt, decode_s + prompt * row_s)


def test_before_anything_is_measured_a_step_takes_all() -> None:
    assert StepCost(512).prompt_rows(8, 4000) == 512
    assert StepCost(512).prompt_rows(0, 4000) == 512


@settings(deadline=None)
@given(SPEEDS, ROW_SHARES, st.integers(1, 64))
def test_a_step_with_prompts_takes_about_twice_as_long(
    decode_s: float, share: float, rows: int
) -> None:
    cost = StepCost(512)
    decode_only(cost, rows, decode_s)
    row_s = decode_s * share
    steps = []
    for _ in range(200):
        prompt = cost.prompt_rows(rows, 4000)
        steps.append(decode_s + prompt * row_s)
        assert prompt % LEAST_ROWS == 0
        cost.measured(rows, prompt, steps[-1])
    least = decode_s + LEAST_ROWS * row_s
    most = decode_s + 512 * row_s
    assert steps[-1] <= max(STRETCH * decode_s * 1.001, least)
    # What is given away for want of a whole tile, and no more.
    assert steps[-1] >= min(STRETCH * decode_s - LEAST_ROWS * row_s * 1.001, most)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=200), st.integers(1, 64))
def test_prompts_never_starve_whatever_is_measured(times: list[float], rows: int) -> None:
    cost = StepCost(512)
    for i, took_s in enumerate(times):
        prompt = cost.prompt_rows(rows, 4000)
        assert LEAST_ROWS <= prompt <= 512
        cost.measured(rows, prompt if i % 2 else 0, took_s)


def test_a_machine_that_becomes_slower_is_found_out() -> None:
    cost = StepCost(512)
    decode_only(cost, 8, 0.020)
    with_prompts(cost, 8, 0.020, 1e-4)
    before = cost.prompt_rows(8, 4000)
    with_prompts(cost, 8, 0.020, 5e-4)
    assert before == 300
    assert 54 <= cost.prompt_rows(8, 4000) <= 72


def test_one_wrong_time_does_not_make_a_long_step() -> None:
    cost = StepCost(512)
    decode_only(cost, 1, 0.020)
    with_prompts(cost, 1, 0.020, 1e-3)
    before = cost.prompt_rows(1, 4000)
    cost.measured(1, before, 0.0)
    assert cost.prompt_rows(1, 4000) <= 2 * before


def test_decode_rows_beyond_those_that_were_measured_cost_what_prompt_rows_do() -> None:
    cost = StepCost(512)
    decode_only(cost, 1, 0.010)
    decode_only(cost, 16, 0.030)
    with_prompts(cost, 20, 0.034, 1e-3)
    assert cost.prompt_rows(20, 4000) == 48
    assert cost.prompt_rows(4, 4000) == 16


def test_one_lucky_step_does_not_slow_a_prompt_down() -> None:
    cost = StepCost(512)
    decode_only(cost, 8, 0.020)
    with_prompts(cost, 8, 0.020, 1e-3)
    before = cost.prompt_rows(8, 4000)
    cost.measured(8, before, 0.010)
    assert cost.prompt_rows(8, 4000) >= 0.8 * before


def test_behind_a_long_context_a_step_takes_fewer_rows_than_a_tile() -> None:
    cost = StepCost(512)
    decode_only(cost, 8, 0.010)
    with_prompts(cost, 8, 0.010, 2.5e-3)
    assert cost.prompt_rows(8, 4000) == 4


@pytest.mark.parametrize(
    ("ranks", "pending", "rows"),
    [(1, 100, 512), (2, 500, 128), (2, 40, 64), (3, 500, 128), (4, 64, 64), (2, 4000, 512)],
)
def test_while_nobody_decodes_a_prompt_is_cut_for_all_ranks(
    ranks: int, pending: int, rows: int
) -> None:
    cost = StepCost(512, ranks)
    decode_only(cost, 1, 0.01)
    assert cost.prompt_rows(0, pending) == rows


def test_the_few_who_decode_wait_for_the_many_who_do_not_yet() -> None:
    cost = StepCost(512)
    decode_only(cost, 2, 0.010)
    with_prompts(cost, 2, 0.010, 5e-4)
    assert cost.prompt_rows(2, 4000) == cost.prompt_rows(2, 4000, crowd=0.5) == 28
    assert cost.prompt_rows(2, 4000, crowd=1.5) == 44
    assert cost.prompt_rows(2, 4000, crowd=9.0) == 56, "of more than that nothing is known yet"


def test_a_few_dear_rows_are_not_believed_for_long() -> None:
    """Those of a first small step, which paid for much else besides."""
    cost = StepCost(512)
    decode_only(cost, 8, 0.010)
    cost.measured(8, 4, 0.030)
    steps = 0
    while cost.prompt_rows(8, 4000) < 80:
        prompt = cost.prompt_rows(8, 4000)
        cost.measured(8, prompt, 0.010 + prompt * 1e-4)
        steps += 1
    assert steps <= 20


def test_the_few_do_not_wait_for_ever() -> None:
    """One decodes, sixty long prompts wait, and their rows are dear."""
    cost = StepCost(512)
    decode_only(cost, 1, 0.010)
    with_prompts(cost, 1, 0.010, 2e-3, crowd=60.0)
    assert cost.prompt_rows(1, 200_000, crowd=60.0) * 2e-3 <= (STRETCH - 1) * MOST_CROWD * 0.010


def test_a_burst_after_a_few_streams_is_not_starved() -> None:
    """Nothing was measured of so many decode rows without prompts, and nothing is, as long as the
    burst lasts."""
    cost = StepCost(512)
    decode_only(cost, 1, 0.014)
    decode_only(cost, 3, 0.017)
    for decoding in range(4, 28):
        prompt = cost.prompt_rows(decoding, 800, crowd=(32 - decoding) / decoding)
        cost.measured(decoding, prompt, 0.014 + (decoding + prompt) * 1e-3)
    assert cost.prompt_rows(28, 100) == 60


def test_a_step_alone_is_asked_for_once_and_not_while_one_was_seen_of_late() -> None:
    cost = StepCost(512)
    for _ in range(2):
        decode_only(cost, 8, 0.010, times=1)
        for _ in range(STALE_STEPS - 1):
            cost.measured(8, 32, 0.020)
            assert not cost.wants_alone()
    cost.measured(8, 32, 0.020)
    assert cost.wants_alone()
    assert not cost.wants_alone(), "it is on its way"


@pytest.mark.parametrize("guesses", [0, 8])
def test_a_long_prompt_beside_growing_contexts_is_not_starved(guesses: int) -> None:
    """Each prompt row costs more the further it is, each step has to read what was there before,
    and meanwhile decoding takes three times as long as when the prompt came."""
    cost, left, steps = StepCost(512), 4000, 0
    for rows in range(8, 9 + guesses):
        decode_only(cost, rows, 0.010)
    while left:
        decode_s, rows = 0.010 + 1e-4 * steps, 8 + steps % (guesses + 1)
        prompt = 0 if cost.wants_alone() else min(cost.prompt_rows(rows, left), left)
        read = 4000 - left
        took_s = decode_s + (2e-6 * read + prompt * (2.5e-4 + 1e-7 * read) if prompt else 0.0)
        assert took_s <= 3 * decode_s
        cost.measured(rows, prompt, took_s)
        left -= prompt
        steps += 1
    assert steps <= 200
