"""A state machine as data, and the one total function that moves it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Generic, TypeVar

import msgspec

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


class Machine(msgspec.Struct, Generic[S, E], frozen=True, kw_only=True):
    """`table[state][event]` is the state that follows; what is not in it is rejected."""

    name: str
    states: type[S]
    events: type[E]
    start: S
    table: Mapping[S, Mapping[E, S]]
    meaning: Mapping[E, str]
    """What each event says, for people."""

    def accepted_in(self, event: E) -> frozenset[S]:
        """The states that have a transition for `event`."""
        return frozenset(state for state, row in self.table.items() if event in row)

    def reached_by(self, state: S, events: frozenset[E]) -> frozenset[S]:
        """Every state that `events` alone, in any order, lead to from `state`, itself included."""
        found = {state}
        frontier = [state]
        while frontier:
            for event, after in self.table.get(frontier.pop(), {}).items():
                if event in events and after not in found:
                    found.add(after)
                    frontier.append(after)
        return frozenset(found)


class Moved(msgspec.Struct, Generic[S], frozen=True):
    """The event was accepted; `state` holds now."""

    state: S


class Rejected(msgspec.Struct, Generic[S, E], frozen=True):
    """The event means nothing in the state found; nothing changed."""

    found: S
    event: E
    accepted_in: frozenset[S]

    def __str__(self) -> str:
        return f"{self.event} is not accepted in {self.found}, only in {listed(self.accepted_in)}"


def advance(machine: Machine[S, E], state: S, event: E) -> Moved[S] | Rejected[S, E]:
    """Total: every pair of state and event gives a state or a typed rejection."""
    after = machine.table.get(state, {}).get(event)
    if after is None:
        return Rejected(state, event, machine.accepted_in(event))
    return Moved(after)


def listed(states: frozenset[S]) -> str:
    """`connecting, ready or warming`, in alphabetical order; `no state` for none."""
    names = sorted(states)
    if len(names) < 2:
        return names[0] if names else "no state"
    return f"{', '.join(names[:-1])} or {names[-1]}"
