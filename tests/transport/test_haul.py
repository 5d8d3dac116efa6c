"""Who is asked for what: every chunk comes as long as somebody has it and answers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.transport.haul import (
    GIVE_UP_AFTER,
    LOOK_AGAIN_S,
    REST_S,
    SECOND_AFTER_S,
    WINDOW,
    Haul,
)

PATIENCE_S = 5.0
ALL = {0: ((0, 100),)}


def refs(count: int) -> list[tuple[int, int]]:
    return [(0, chunk) for chunk in range(count)]


def haul(count: int, *peers: str) -> Haul:
    made = Haul(PATIENCE_S)
    made.want(refs(count))
    for peer in peers:
        made.enter(peer, ALL, 0.0)
    return made


def test_each_chunk_is_asked_once_and_no_peer_for_more_than_a_window():
    it = haul(3 * WINDOW, "a", "b")
    asked = it.ask(0.0)
    assert len(asked) == 2 * WINDOW == len({ref for _, ref in asked})
    assert it.ask(0.0) == []
    it.came("a", asked[0][1], 0.1)
    ((peer, ref),) = it.ask(0.1)
    assert peer == "a"
    assert ref not in {other for _, other in asked}


def test_what_a_silent_peer_was_asked_goes_to_another():
    it = haul(4, "a")
    assert len(it.ask(0.0)) == 4
    it.enter("b", ALL, 1.0)
    assert it.tick(PATIENCE_S - 0.1) == []
    assert it.tick(PATIENCE_S) == ["a"]
    assert sorted(it.ask(PATIENCE_S)) == [("b", ref) for ref in refs(4)]


def test_a_peer_that_is_heard_is_not_silent():
    it = haul(2, "a")
    it.ask(0.0)
    it.came("a", (0, 0), PATIENCE_S - 1)
    assert it.tick(PATIENCE_S + 1) == []


def test_a_peer_that_stays_silent_rests_and_is_then_given_up():
    it, now = haul(1, "a"), 0.0
    for _ in range(GIVE_UP_AFTER):
        assert it.ask(now) == [("a", (0, 0))]
        now += PATIENCE_S
        assert it.tick(now) == ["a"]
        assert it.ask(now) == []
        now += REST_S
    assert it.unobtainable() == [(0, 0)]
    assert "silent" in it.gone["a"]


def test_who_lies_is_asked_no_more_and_what_it_had_is_asked_of_others():
    it = haul(3, "a")
    it.ask(0.0)
    it.enter("b", ALL, 0.0)
    it.strike("a", "it lies")
    assert sorted(it.ask(0.0)) == [("b", ref) for ref in refs(3)]
    it.enter("a", ALL, 1.0)
    assert it.peers == ("b",)


def test_a_chunk_that_a_slow_peer_holds_up_is_asked_of_an_idle_one_once():
    it = haul(1, "slow")
    it.ask(0.0)
    for peer in ("quick", "third"):
        it.enter(peer, ALL, 0.0)
    assert it.ask(SECOND_AFTER_S - 0.1) == []
    ((peer, ref),) = it.ask(SECOND_AFTER_S)
    assert (peer in ("quick", "third"), ref) == (True, (0, 0))
    assert it.ask(SECOND_AFTER_S + 1) == []
    it.came(peer, ref, SECOND_AFTER_S + 1)
    assert it.done


def test_only_who_has_a_chunk_is_asked_for_it():
    it = haul(6)
    it.enter("low", {0: ((0, 3),)}, 0.0)
    it.enter("high", {0: ((3, 5),)}, 0.0)
    asked = it.ask(0.0)
    assert {ref for peer, ref in asked if peer == "low"} == {(0, 0), (0, 1), (0, 2)}
    assert {ref for peer, ref in asked if peer == "high"} == {(0, 3), (0, 4)}
    assert it.unobtainable() == []
    for peer, ref in asked:
        it.came(peer, ref, 0.1)
    assert it.unobtainable() == [(0, 5)]
    it.enter("low", {0: ((0, 6),)}, 1.0)
    assert it.ask(1.0 + LOOK_AGAIN_S) == [("low", (0, 5))]


def test_a_peer_that_has_not_what_it_said_is_not_asked_for_it_again():
    it = haul(1, "a")
    it.ask(0.0)
    it.lacks("a", (0, 0), 0.1)
    assert it.ask(10.0) == []
    assert it.unobtainable() == [(0, 0)]


DEEDS = st.sampled_from(["came", "came", "came", "silent", "lacks", "lies", "wait"])


@settings(deadline=None)
@given(st.integers(1, 40), st.lists(st.tuples(DEEDS, st.integers(0, 7)), max_size=120))
def test_nothing_that_an_honest_peer_has_is_ever_lost(count, deeds):
    """Whatever the others do, one peer that answers in the end is enough."""
    it, now = haul(count, "a", "b", "honest"), 0.0
    out: list[tuple[str, tuple[int, int]]] = []
    for deed, pick in deeds:
        now += 0.1
        out += it.ask(now)
        others = [entry for entry in out if entry[0] != "honest"]
        if deed == "wait":
            now += PATIENCE_S
            it.tick(now)
        elif others:
            peer, ref = entry = others[pick % len(others)]
            out.remove(entry)
            if deed == "came":
                it.came(peer, ref, now)
            elif deed == "lacks":
                it.lacks(peer, ref, now)
            elif deed == "lies":
                it.strike(peer, "it lies")
        for entry in [entry for entry in out if entry[0] == "honest"]:
            out.remove(entry)
            it.came("honest", entry[1], now)
    for _ in range(10 * count):
        if it.done:
            break
        now += PATIENCE_S
        it.tick(now)
        for peer, ref in it.ask(now):
            if peer == "honest":
                it.came(peer, ref, now)
        assert it.unobtainable() == []
    assert it.done
