"""The policy alone: whoever kills is found, and nobody else."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.gateway.suspicion import ALONE, INNOCENT, SHARED, Case, Suspicion, Trial, trial
from paceline.types.ids import InstanceId, StreamId

A, B = InstanceId("a"), InstanceId("b")


@pytest.mark.parametrize(
    ("before", "alone", "gained", "after"),
    [
        (Suspicion(), False, False, Suspicion(shared=1)),
        (Suspicion(shared=1), False, False, Suspicion(shared=2)),
        (Suspicion(shared=1), False, True, INNOCENT),
        (Suspicion(), True, False, Suspicion(alone=1)),
        (Suspicion(shared=2, alone=1), True, False, Suspicion(shared=2, alone=2)),
        (Suspicion(shared=2, alone=2), True, True, INNOCENT),
    ],
)
def test_what_a_failure_counts_for(before, alone, gained, after) -> None:
    assert before.after_failure(alone=alone, gained=gained) == after


def case(name: str, suspicion: Suspicion = INNOCENT, rides: InstanceId | None = None) -> Case:
    return Case(stream=StreamId(name), suspicion=suspicion, rides=rides)


SUSPECT = Suspicion(shared=SHARED)


@pytest.mark.parametrize(
    ("cases", "instances", "expected"),
    [
        ([case("x"), case("y", Suspicion(shared=SHARED - 1))], [A], None),
        ([case("x"), case("y", SUSPECT)], [A], Trial("y", A)),
        ([case("x", SUSPECT), case("y", SUSPECT)], [A], Trial("x", A)),
        ([case("x", SUSPECT), case("y", Suspicion(alone=1))], [A], Trial("y", A)),
        ([case("x", SUSPECT, rides=B), case("y", SUSPECT)], [A, B], Trial("x", B)),
        ([case("x", SUSPECT)], [], Trial("x", None)),
    ],
)
def test_whom_to_try_and_where(cases, instances, expected) -> None:
    assert trial(cases, instances) == expected


def test_the_accused_is_alone_and_other_suspects_wait() -> None:
    held = Trial(StreamId("x"), A)
    assert held.allows(StreamId("x"), SUSPECT, A)
    assert not held.allows(StreamId("x"), SUSPECT, B)
    assert not held.allows(StreamId("innocent"), INNOCENT, A)
    assert held.allows(StreamId("innocent"), INNOCENT, B)
    assert not held.allows(StreamId("y"), SUSPECT, A)
    assert not held.allows(StreamId("y"), SUSPECT, B)


class Line:
    """One instance that fails whenever it carries a killer, and by chance besides."""

    def __init__(self, killers: Iterable[str], left: dict[str, int], chances: list[bool]) -> None:
        self.killers = set(killers)
        self.left = left
        """Tokens that each stream still needs."""
        self.chances = chances
        self.suspicions = dict.fromkeys(left, INNOCENT)
        self.guilty: set[str] = set()
        self.failures = 0
        self.longest_alone: dict[str, int] = dict.fromkeys(left, 0)

    def round(self) -> None:
        """All who may board do; the line fails, or each aboard gains a token."""
        there = [name for name in self.left if name not in self.guilty]
        held = trial((case(name, self.suspicions[name]) for name in there), [A])
        aboard = [n for n in there if held is None or held.allows(n, self.suspicions[n], A)]
        by_chance = bool(self.chances) and self.chances.pop()
        if by_chance or self.killers & set(aboard):
            self._fail(aboard)
            return
        for name in aboard:
            self.suspicions[name] = INNOCENT
            self.left[name] -= 1
            if not self.left[name]:
                del self.left[name]

    def _fail(self, aboard: list[str]) -> None:
        self.failures += 1
        alone = len(aboard) == 1
        for name in aboard:
            now = self.suspicions[name].after_failure(alone=alone, gained=False)
            self.suspicions[name] = now
            self.longest_alone[name] = now.alone
            if now.is_guilty:
                self.guilty.add(name)


STREAMS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 5), min_size=1)


@given(STREAMS, st.data())
def test_all_who_kill_are_found_and_all_others_end(left: dict[str, int], data) -> None:
    killers = data.draw(st.sets(st.sampled_from(sorted(left))))
    line = Line(killers, dict(left), chances=[])
    for _ in range(100):
        line.round()
    assert line.guilty == killers
    assert set(line.left) == killers
    assert line.failures <= SHARED + ALONE * len(killers)


@given(STREAMS, st.lists(st.booleans(), max_size=30))
def test_chance_convicts_nobody_who_did_not_fail_alone_again_and_again(left, chances) -> None:
    line = Line((), dict(left), chances)
    for _ in range(100):
        line.round()
    assert all(line.longest_alone[name] >= ALONE for name in line.guilty)
    assert set(line.left) == line.guilty
