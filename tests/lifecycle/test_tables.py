"""The machines are total, consistent and tell what a person would expect of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.lifecycle import (
    INSTANCE,
    PROGRESS,
    REPORTS,
    RUNNER,
    STARTS,
    TASK,
    InstanceEvent,
    Machine,
    Moved,
    Rejected,
    RunnerEvent,
    TaskEvent,
    advance,
)
from paceline.types.states import InstanceState, RunnerState, TaskKind, TaskState

MACHINES = [RUNNER, TASK, INSTANCE]
PAIRS = [(m, s, e) for m in MACHINES for s in m.states for e in m.events]


@pytest.mark.parametrize(("machine", "state", "event"), PAIRS, ids=lambda x: str(x)[:20])
def test_every_pair_has_an_answer(machine: Machine[Any, Any], state: Any, event: Any) -> None:
    answer = advance(machine, state, event)
    if isinstance(answer, Moved):
        assert answer.state in machine.states
        assert state in machine.accepted_in(event)
        return
    assert answer == Rejected(state, event, machine.accepted_in(event))
    assert state not in answer.accepted_in
    assert str(state) in str(answer)
    assert str(event) in str(answer)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)
def test_every_state_has_a_row_and_every_event_a_meaning_and_a_use(
    machine: Machine[Any, Any],
) -> None:
    assert set(machine.table) == set(machine.states)
    assert set(machine.meaning) == set(machine.events)
    assert all(machine.accepted_in(event) for event in machine.events)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)
def test_every_state_is_reached_from_the_start(machine: Machine[Any, Any]) -> None:
    assert machine.reached_by(machine.start, frozenset(machine.events)) == set(machine.states)


@pytest.mark.parametrize("state", RunnerState)
def test_a_runner_stops_from_anywhere_and_for_good(state: RunnerState) -> None:
    assert advance(RUNNER, state, RunnerEvent.STOP) == Moved(RunnerState.STOPPED)
    assert RUNNER.reached_by(RunnerState.STOPPED, frozenset(RunnerEvent)) == {RunnerState.STOPPED}


@pytest.mark.parametrize("state", sorted(set(RunnerState) - {RunnerState.STOPPED}))
def test_only_a_stop_ends_a_runner(state: RunnerState) -> None:
    others = frozenset(RunnerEvent) - {RunnerEvent.STOP}
    assert RunnerState.STOPPED not in RUNNER.reached_by(state, others)


@pytest.mark.parametrize("state", sorted(set(RunnerState) - {RunnerState.STOPPED}))
def test_a_living_runner_can_become_ready_again(state: RunnerState) -> None:
    assert RunnerState.READY in RUNNER.reached_by(state, frozenset(RunnerEvent))


@pytest.mark.parametrize(
    ("found", "left"),
    [
        (RunnerState.FETCHING, RunnerState.FAILED),
        (RunnerState.LOADING, RunnerState.FAILED),
        (RunnerState.CONNECTING, RunnerState.LOADED),
        (RunnerState.WARMING, RunnerState.LOADED),
        (RunnerState.DRAINING, RunnerState.DRAINING),
    ],
)
def test_a_failed_task_leaves_a_runner_that_can_be_given_another(
    found: RunnerState, left: RunnerState
) -> None:
    assert advance(RUNNER, found, RunnerEvent.TASK_FAILED) == Moved(left)
    wanted = RunnerEvent.STOP if left is RunnerState.DRAINING else RunnerEvent.LOAD_STARTED
    assert wanted in RUNNER.table[left]


@pytest.mark.parametrize(
    "state",
    [RunnerState.CONNECTING, RunnerState.WARMING, RunnerState.READY, RunnerState.DRAINING],
)
def test_a_lost_line_keeps_the_weights(state: RunnerState) -> None:
    assert advance(RUNNER, state, RunnerEvent.LINE_LOST) == Moved(RunnerState.LOADED)


def test_the_way_to_ready() -> None:
    state = RUNNER.start
    seen = [state]
    for kind in (TaskKind.FETCH, TaskKind.LOAD, TaskKind.CONNECT, TaskKind.WARM_UP):
        for event in (STARTS[kind], next(e for e in RunnerEvent if e == f"{kind}_done")):
            answer = advance(RUNNER, state, event)
            assert isinstance(answer, Moved), answer
            state = answer.state
            seen.append(state)
    assert seen == [
        RunnerState.IDLE,
        RunnerState.FETCHING,
        RunnerState.IDLE,
        RunnerState.LOADING,
        RunnerState.LOADED,
        RunnerState.CONNECTING,
        RunnerState.WARMING,
        RunnerState.WARMING,
        RunnerState.READY,
    ]


def test_every_kind_of_task_has_its_starting_event() -> None:
    assert set(STARTS) == set(TaskKind)
    assert not PROGRESS & set(STARTS.values())


@pytest.mark.parametrize("state", TaskState)
def test_a_task_that_ended_accepts_nothing(state: TaskState) -> None:
    accepted = {event for event in TaskEvent if isinstance(advance(TASK, state, event), Moved)}
    assert state.is_terminal == (not accepted)
    assert state.is_terminal or {REPORTS[s] for s in TaskState if s.is_terminal} <= accepted


@given(st.lists(st.sampled_from(TaskEvent)))
def test_the_first_ending_of_a_task_wins(events: list[TaskEvent]) -> None:
    state = TASK.start
    ended: TaskState | None = None
    for event in events:
        answer = advance(TASK, state, event)
        state = answer.state if isinstance(answer, Moved) else state
        if ended is None and state.is_terminal:
            ended = state
    assert ended is None or state is ended


def test_every_report_says_something_to_the_ledger() -> None:
    assert set(REPORTS) == set(TaskState) - {TaskState.PENDING}
    for reported, event in REPORTS.items():
        assert advance(TASK, TaskState.PENDING, event) == Moved(reported)


@pytest.mark.parametrize("state", sorted(set(InstanceState) - {InstanceState.STOPPED}))
def test_only_the_user_ends_an_instance(state: InstanceState) -> None:
    assert advance(INSTANCE, state, InstanceEvent.DELETED) == Moved(InstanceState.DRAINING)
    others = frozenset(InstanceEvent) - {InstanceEvent.DELETED}
    ends = INSTANCE.reached_by(state, others) & {InstanceState.STOPPED}
    assert not ends or state is InstanceState.DRAINING


@pytest.mark.parametrize(
    "state", sorted(set(InstanceState) - {InstanceState.STOPPED, InstanceState.DRAINING})
)
def test_a_wanted_instance_can_always_become_ready(state: InstanceState) -> None:
    assert InstanceState.READY in INSTANCE.reached_by(state, frozenset(InstanceEvent))
