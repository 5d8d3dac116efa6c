from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.gateway.text import StopText

LETTERS = "ab🌍"
texts = st.text(LETTERS, max_size=40)
stop_sets = st.lists(st.text(LETTERS, min_size=1, max_size=5), max_size=4).map(tuple)


def expected(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """By brute force: the first end of any stop string, the longest of those that end there."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end - len(stop)], stop
    return text, None


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


@given(texts, stop_sets, st.lists(st.integers(0, 99), max_size=8))
def test_the_same_text_however_it_is_cut(
    text: str, stops: tuple[str, ...], cuts: list[int]
) -> None:
    stop_text = StopText(stops)
    shown = "".join(stop_text.feed(piece) for piece in pieces_of(text, cuts))
    shown += stop_text.flush()
    assert (shown, stop_text.stopped) == expected(text, stops)


@given(texts, stop_sets)
def test_nothing_is_shown_that_must_be_taken_back_and_nothing_held_in_vain(
    text: str, stops: tuple[str, ...]
) -> None:
    stop_text, shown, whole = StopText(stops), "", expected(text, stops)[0]
    for end, char in enumerate(text, 1):
        shown += stop_text.feed(char)
        assert whole.startswith(shown)
        if stop_text.stopped is None:
            held = text[len(shown) : end]
            assert not held or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize(
    ("text", "stops", "include", "shown"),
    [
        ("one END two", ("END",), False, "one "),
        ("one END two", ("END",), True, "one END"),
        ("one EN", ("END",), False, "one EN"),
        ("ENEND", ("END",), False, "EN"),
        ("abc", ("c", "bc"), False, "a"),
        ("abcd", ("abcd", "bc"), False, "a"),
    ],
)
def test_examples(text: str, stops: tuple[str, ...], include: bool, shown: str) -> None:
    stop_text = StopText(stops, include)
    assert stop_text.feed(text) + stop_text.flush() == shown


def test_no_stop_string_is_found_in_what_is_passed_by() -> None:
    stop_text = StopText(("ab",))
    assert stop_text.pass_by("ab a") == "ab a"
    assert stop_text.feed("b ab") == "b "
    assert stop_text.stopped == "ab"
