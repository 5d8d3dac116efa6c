"""The tables are the contract, entry by entry; and no entry could be broken unnoticed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from paceline.lifecycle import INSTANCE, RUNNER, TASK, Machine
from paceline.types.states import RunnerState
from tests.lifecycle import contract
from tests.lifecycle.contract import Entry, differences, entries

CONTRACTS = [(RUNNER, contract.RUNNER), (TASK, contract.TASK), (INSTANCE, contract.INSTANCE)]
named = pytest.mark.parametrize(("machine", "text"), CONTRACTS, ids=["runner", "task", "instance"])


@named
def test_the_table_is_the_contract(machine: Machine[Any, Any], text: str) -> None:
    found = differences(machine, text)
    assert not found, "\n".join(found.values())
    assert machine.start == contract.STARTS_IN[machine.name]


def test_a_runner_answers_every_kind_in_every_state_as_agreed() -> None:
    assert not (found := contract.wrong_verdicts()), "\n".join(found)
    assert set(contract.VERDICTS.split("\n")[1].split()) == set(RunnerState)


@named
def test_one_broken_entry_is_named_and_no_other(machine: Machine[Any, Any], text: str) -> None:
    mutants = list(_mutants(machine))
    states, events = len(machine.states), len(machine.events)
    assert len(mutants) == states * events * states
    for entry, after, mutant in mutants:
        (named_entry, sentence), *others = differences(mutant, text).items()
        assert named_entry == entry
        assert not others, others
        expected = entries(machine.name, text).get(entry, "a rejection")
        assert sentence == (
            f"{machine.name}: {entry.state} on {entry.event}: expected {expected}, found {after}"
        )


def _mutants(machine: Machine[Any, Any]) -> Iterator[tuple[Entry, str, Machine[Any, Any]]]:
    """The machine with each pair of state and event led to every state it does not lead to, and
    with each entry removed: (the pair, what it leads to now, the broken machine)."""
    for state in machine.states:
        for event in machine.events:
            row = machine.table[state]
            entry = Entry(machine.name, str(state), str(event))
            for after in machine.states:
                if row.get(event) is not after:
                    yield entry, str(after), _with_row(machine, state, {**row, event: after})
            if event in row:
                left = {key: value for key, value in row.items() if key is not event}
                yield entry, "a rejection", _with_row(machine, state, left)


def _with_row(machine: Machine[Any, Any], state: Any, row: Any) -> Machine[Any, Any]:
    return msgspec.structs.replace(machine, table={**machine.table, state: row})
