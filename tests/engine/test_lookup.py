from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.engine.flight import Flight
from paceline.engine.lookup import (
    FIRST_GUESSES,
    LONGEST_PAUSE,
    MOST_GUESSES,
    MOST_IDS,
    MOST_MISSES,
    Lookup,
)
from paceline.types.errors import EngineError
from paceline.types.step import Sampled, SampledToken

IDS = st.lists(st.integers(0, 3), max_size=40)


def trusting(ids: list[int]) -> Lookup:
    lookup = Lookup(ids)
    while 0 < len(guesses := lookup.guess(MOST_GUESSES)) < MOST_GUESSES:
        lookup.judge(len(guesses), len(guesses))
    return lookup


def lavish(lookup: Lookup) -> tuple[int, ...]:
    """What it guesses where rows abound."""
    return lookup.guess(MOST_GUESSES, rows_abound=True)


def test_what_came_behind_two_ids_comes_again():
    assert trusting([5, 1, 2, 7, 8, 9, 1, 2]).guess(3) == (7, 8, 9)


def test_what_came_last_counts():
    assert trusting([1, 2, 7, 1, 2, 8, 1, 2]).guess(1) == (8,)


def test_what_repeats_goes_on_repeating():
    assert trusting([4, 1, 2, 3, 1, 2]).guess(7) == (3, 1, 2, 3, 1, 2, 3)
    assert trusting([6, 6, 6]).guess(3) == (6, 6, 6)


def test_nothing_is_guessed_of_what_is_new():
    for ids in ([], [1], [1, 2], [1, 2, 3, 4]):
        assert Lookup(ids).guess(7) == ()


def test_where_rows_abound_one_id_is_enough_for_a_guess():
    ids = [5, 1, 7, 8, 2, 1]
    assert Lookup(ids).guess(MOST_GUESSES) == ()
    assert lavish(Lookup(ids)) == (7,)


def test_what_two_ids_say_goes_before_what_one_says():
    assert lavish(Lookup([1, 2, 7, 3, 2, 8, 1, 2])) == (7, 3)


def test_each_is_trusted_by_its_own_merits():
    ids = [1, 2, 7, 3, 2, 8, 1, 2]
    lookup = Lookup(ids)
    lavish(lookup)
    lookup.judge(2, 2)
    ids += [7, 3, 6, 2]
    assert lavish(lookup) == (7,)
    lookup.judge(1, 0)
    ids += [9, 1, 2]
    assert len(lavish(lookup)) == 5


def test_where_two_ids_are_at_rest_one_does_not_speak_for_them():
    ids = [1, 2, 7, 1, 2]
    lookup = Lookup(ids)
    for _ in range(MOST_MISSES):
        lavish(lookup)
        lookup.judge(1, 0)
    assert lavish(lookup) == ()


def test_the_list_may_grow():
    ids = [1, 2, 3]
    lookup = Lookup(ids)
    assert lookup.guess(7) == ()
    ids += [1, 2]
    assert lookup.guess(1) == (3,)


def test_right_guesses_are_followed_by_more_of_them():
    ids = [1, 2, 3] * 5
    lookup = Lookup(ids)
    assert len(lookup.guess(7)) == dict(FIRST_GUESSES)[2]
    lookup.judge(2, 2)
    assert len(lookup.guess(7)) == 5
    lookup.judge(5, 5)
    assert len(lookup.guess(9)) == MOST_GUESSES
    lookup.judge(7, 3)
    assert len(lookup.guess(7)) == 3
    lookup.judge(3, 0)
    assert len(lookup.guess(7)) == 1


def test_after_misses_there_are_ever_longer_pauses():
    ids = [1, 2] * 5
    lookup, guessed = Lookup(ids), []
    for _ in range(70):
        if guesses := lookup.guess(1):
            lookup.judge(len(guesses), 0)
            guessed.append(len(ids))
        ids.append(ids[-2])
    pauses = [b - a for a, b in pairwise(guessed)]
    assert pauses[:MOST_MISSES] == [1] * MOST_MISSES
    assert pauses[MOST_MISSES:] == [2, 4, 8, LONGEST_PAUSE, LONGEST_PAUSE]


def test_of_a_long_prompt_the_end_is_looked_at():
    ids = [7, 8, 9, *range(100, 100 + MOST_IDS), 7, 8]
    assert lavish(Lookup(ids)) == ()
    assert Lookup([*ids[:-2], 7, 8, 5, 7, 8]).guess(1) == (5,)


@given(ids=IDS, most=st.integers(-1, 9), rows_abound=st.booleans())
def test_guesses_are_few_and_of_what_was_there(ids: list[int], most: int, rows_abound: bool):
    guesses = trusting(ids).guess(most, rows_abound)
    assert len(guesses) <= max(min(most, MOST_GUESSES), 0)
    length = 1 if rows_abound else 2
    there = {tuple(ids[i : i + length + 1]) for i in range(len(ids) - length)}
    if guesses:
        assert (*ids[-length:], guesses[0]) in there


def _verify(guesses: tuple[int, ...], *ids: int, first: int = 4) -> bool:
    flight = Flight(1, {9: 4}, {9: guesses} if guesses else {})
    tokens = tuple(SampledToken(9, first + i, id) for i, id in enumerate(ids))
    try:
        flight.verify(Sampled(number=1, tokens=tokens), vocab_size=100)
    except EngineError:
        return False
    return True


def test_as_many_tokens_come_back_as_guesses_were_right():
    assert _verify((), 5)
    assert _verify((5, 6), 7)
    assert _verify((5, 6), 5, 7)
    assert _verify((5, 6), 5, 6, 7)


def test_anything_else_breaks_the_line():
    assert not _verify(())
    assert not _verify((), 5, 6)
    assert not _verify((5, 6), 5), "a right guess is followed by another token"
    assert not _verify((5, 6), 7, 6), "a wrong one by none"
    assert not _verify((5, 6), 5, 6, 7, 8)
    assert not _verify((5, 6), 7, first=5)
    swapped = (SampledToken(9, 5, 7), SampledToken(9, 4, 5))
    with pytest.raises(EngineError):
        Flight(1, {9: 4}, {9: (5,)}).verify(Sampled(number=1, tokens=swapped), vocab_size=100)
