from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.engine.pages import PagePool, pages_for
from paceline.types.errors import EngineError
from paceline.types.model import PAGE_TOKENS


def take(pool: PagePool, owner: int, pages: int) -> None:
    pool.promise(owner, pages)
    pool.draw(owner, (pool.held(owner) + pages) * PAGE_TOKENS)


@pytest.mark.parametrize(
    ("tokens", "pages"), [(0, 0), (1, 1), (PAGE_TOKENS, 1), (PAGE_TOKENS + 1, 2)]
)
def test_pages_for_rounds_up(tokens: int, pages: int) -> None:
    assert pages_for(tokens) == pages


def test_a_table_keeps_its_order_as_it_grows() -> None:
    pool = PagePool(4)
    take(pool, 7, 2)
    before = pool.table(7, 2 * PAGE_TOKENS)
    take(pool, 8, 1)
    take(pool, 7, 1)
    assert pool.table(7, 2 * PAGE_TOKENS + 1)[:2] == before
    assert pool.table(7, 1) == before[:1]
    assert pool.free == 0


def test_what_is_promised_to_one_is_not_free_for_another() -> None:
    pool = PagePool(2)
    pool.promise(0, 2)
    assert not pool.can_promise(1)
    with pytest.raises(EngineError, match="1 pages are needed and 0 are free"):
        pool.promise(1, 1)
    pool.forgo(0, 1)
    pool.promise(1, 1)
    assert (pool.room(0), pool.room(1), pool.free) == (1, 1, 0)


def test_nobody_draws_more_than_was_promised() -> None:
    pool = PagePool(2)
    pool.promise(0, 1)
    with pytest.raises(EngineError, match="takes 1 pages and was promised 0"):
        pool.draw(0, 2 * PAGE_TOKENS)


def test_a_table_shorter_than_its_tokens_is_an_error() -> None:
    pool = PagePool(2)
    take(pool, 0, 1)
    with pytest.raises(EngineError, match="holds 1 pages and needs 2"):
        pool.table(0, PAGE_TOKENS + 1)


def remembered(pool: PagePool, owner: int, keys: list[bytes]) -> list[int]:
    """Pages of a new owner, full and known by these keys."""
    take(pool, owner, len(keys))
    pages = list(pool.table(owner, len(keys) * PAGE_TOKENS))
    for page, key in zip(pages, keys, strict=True):
        pool.remember(page, key)
    return pages


def test_known_pages_end_at_the_first_gap() -> None:
    pool = PagePool(4)
    pages = remembered(pool, 0, [b"a", b"b", b"c"])
    assert pool.known([b"a", b"b", b"x", b"c"]) == pages[:2]
    assert pool.known([b"x", b"a"]) == []


def test_a_shared_page_is_free_when_its_last_owner_has_gone() -> None:
    pool = PagePool(3)
    pages = remembered(pool, 0, [b"a", b"b"])
    assert pool.cost(pages) == 0
    pool.share(1, pages)
    assert pool.table(1, 2 * PAGE_TOKENS) == tuple(pages)
    pool.release(0)
    assert (pool.free, pool.cost(pages)) == (1, 0)
    pool.release(1)
    assert (pool.free, pool.cost(pages)) == (3, 2)
    pool.check_integrity()


def test_blank_pages_go_first_then_the_end_of_what_was_used_least_recently() -> None:
    pool = PagePool(5)
    remembered(pool, 0, [b"a", b"b"])
    remembered(pool, 1, [b"c", b"d"])
    pool.release(1)
    pool.release(0)
    for left in ([b"a", b"b", b"c", b"d"], [b"a", b"b", b"c"], [b"a", b"b"], [b"a"], []):
        take(pool, 2, 1)
        assert [key for key in (b"a", b"b", b"c", b"d") if pool.known([key])] == left
        pool.check_integrity()


def test_the_first_page_of_a_key_is_the_one() -> None:
    pool = PagePool(2)
    (page,) = remembered(pool, 0, [b"a"])
    remembered(pool, 1, [b"a"])
    assert pool.known([b"a"]) == [page]
    pool.release(1)
    pool.check_integrity()
    assert pool.free == 1


KEYS = [b"a", b"b", b"c", b"d"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.sampled_from(KEYS))))
def test_pages_are_never_lost(moves: list[tuple[int, int, bytes]]) -> None:
    pool = PagePool(8)
    for owner, count, key in moves:
        known = pool.known([key])
        if count == 0:
            pool.release(owner)
        elif known and known[0] not in pool.table(owner, pool.held(owner) * PAGE_TOKENS):
            if pool.can_promise(pool.cost(known)):
                pool.share(owner, known)
        elif pool.can_promise(count):
            take(pool, owner, count)
            page = pool.table(owner, pool.held(owner) * PAGE_TOKENS)[-1]
            if page not in pool.known(KEYS) and not known:
                pool.remember(page, key)
        pool.check_integrity()
        held = {p for o in pool.owners for p in pool.table(o, pool.held(o) * PAGE_TOKENS)}
        assert pool.free + len(held) == 8


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"_blank": []}, "lost"),
        ({"_blank": [0, 0, 1]}, "in two places"),
        ({"_blank": [0], "_tables": {5: [1], 6: [1]}}, "not known to be full"),
        ({"_known": {b"a": 0}}, "do not name each other"),
        ({"_promised": {5: 3}}, "1 more are promised than free"),
    ],
)
def test_damage_is_found(damage: dict[str, Any], words: str) -> None:
    pool = PagePool(2)
    for field, value in damage.items():
        setattr(pool, field, value)
    with pytest.raises(EngineError, match=words):
        pool.check_integrity()


def test_only_a_blank_pool_takes_over_the_pages_of_another() -> None:
    pool = PagePool(2)
    pool.recall({0: b"k"})
    with pytest.raises(EngineError, match="blank"):
        pool.recall({1: b"l"})
