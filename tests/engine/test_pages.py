from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.engine.pages import PagePool, pages_for
from paceline.types.errors import EngineError
from paceline.types.model import PAGE_TOKENS


@pytest.mark.parametrize(
    ("tokens", "pages"), [(0, 0), (1, 1), (PAGE_TOKENS, 1), (PAGE_TOKENS + 1, 2)]
)
def test_pages_for_rounds_up(tokens: int, pages: int) -> None:
    assert pages_for(tokens) == pages


def test_a_table_keeps_its_order_as_it_grows() -> None:
    pool = PagePool(4)
    pool.allocate(7, 2)
    before = pool.table(7, 2 * PAGE_TOKENS)
    pool.allocate(8, 1)
    pool.allocate(7, 1)
    assert pool.table(7, 2 * PAGE_TOKENS + 1)[:2] == before
    assert pool.table(7, 1) == before[:1]
    assert pool.free == 0


def test_more_than_is_free_is_refused_and_nothing_changes() -> None:
    pool = PagePool(2)
    pool.allocate(0, 1)
    assert not pool.can_allocate(2)
    with pytest.raises(EngineError, match="2 pages are needed and 1 are free"):
        pool.allocate(1, 2)
    assert pool.owners == {0}
    assert pool.free == 1


def test_a_table_shorter_than_its_tokens_is_an_error() -> None:
    pool = PagePool(2)
    pool.allocate(0, 1)
    with pytest.raises(EngineError, match="holds 1 pages and needs 2"):
        pool.table(0, PAGE_TOKENS + 1)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3))))
def test_pages_are_never_lost_nor_shared(moves: list[tuple[int, int]]) -> None:
    pool = PagePool(8)
    for owner, count in moves:
        if count == 0:
            pool.release(owner)
        elif pool.can_allocate(count):
            pool.allocate(owner, count)
        pool.check_integrity()
        assert pool.free + sum(pool.held(owner) for owner in pool.owners) == 8


@pytest.mark.parametrize(("free", "words"), [([], "lost"), ([0, 0, 1], "in two places")])
def test_damage_is_found(free: list[int], words: str) -> None:
    pool = PagePool(2)
    pool._free = free
    with pytest.raises(EngineError, match=words):
        pool.check_integrity()
