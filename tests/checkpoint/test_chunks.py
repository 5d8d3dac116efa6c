"""Which chunks hold which bytes."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from paceline.checkpoint.chunks import (
    AIMED_AT,
    LEAST_BYTES,
    MOST_BYTES,
    chunk_bytes_for,
    chunk_count,
    chunk_range,
    covering,
    merged,
)

ranges = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 60)).map(lambda pair: (pair[0], sum(pair))),
    max_size=12,
)


def members(found: tuple[tuple[int, int], ...] | list[tuple[int, int]]) -> set[int]:
    return {number for start, stop in found for number in range(start, stop)}


@given(ranges)
def test_merged_ranges_hold_the_same_numbers_in_as_few_pieces_as_can_be(given_ranges):
    found = merged(given_ranges)
    assert members(found) == members(given_ranges)
    assert all(start < stop for start, stop in found)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(found))


@given(ranges, st.integers(1, 50))
def test_covering_chunks_are_those_that_hold_one_of_the_bytes(given_ranges, chunk_bytes):
    found = covering(given_ranges, chunk_bytes)
    assert members(found) == {byte // chunk_bytes for byte in members(given_ranges)}
    assert found == merged(found)


@given(st.integers(0, 10_000), st.integers(1, 700))
def test_the_chunks_of_a_file_are_all_of_it_and_nothing_twice(size, chunk_bytes):
    count = chunk_count(size, chunk_bytes)
    cut = [chunk_range(number, size, chunk_bytes) for number in range(count)]
    assert [byte for start, stop in cut for byte in range(start, stop)] == list(range(size))


@given(st.integers(0, 1 << 45))
def test_chunks_are_neither_small_nor_many_as_far_as_both_can_be(size):
    found = chunk_bytes_for(size)
    assert LEAST_BYTES <= found <= MOST_BYTES
    assert found & (found - 1) == 0
    assert chunk_count(size, found) <= AIMED_AT or found == MOST_BYTES
    assert found == LEAST_BYTES or chunk_count(size, found // 2) > AIMED_AT
