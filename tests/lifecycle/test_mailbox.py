"""What a runner does with a task that knocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.lifecycle import RUNNER, STARTS, Accept, Moved, Park, Refuse, advance, verdict
from paceline.types.ids import MAX_EPOCH, Epoch
from paceline.types.states import RunnerState, TaskKind

OLD, NOW, NEXT = Epoch(1, 7), Epoch(2, 1), Epoch(2, 2)
S, K = RunnerState, TaskKind


@pytest.mark.parametrize(
    ("state", "kind", "mine", "its", "expected"),
    [
        (S.IDLE, K.FETCH, None, NOW, Accept),
        (S.IDLE, K.LOAD, None, NOW, Accept),
        (S.IDLE, K.LOAD, NOW, NOW, Accept),
        (S.IDLE, K.CONNECT, NOW, NEXT, Refuse),
        (S.IDLE, K.WARM_UP, NOW, NOW, Refuse),
        (S.IDLE, K.DRAIN, NOW, NOW, Refuse),
        (S.FETCHING, K.LOAD, NOW, NOW, Park),
        (S.FETCHING, K.CONNECT, NOW, NOW, Refuse),
        (S.LOADING, K.LOAD, NOW, NOW, Park),
        (S.LOADING, K.CONNECT, NOW, NEXT, Park),
        (S.LOADING, K.FETCH, NOW, NEXT, Refuse),
        (S.LOADED, K.LOAD, NOW, NEXT, Accept),
        (S.LOADED, K.CONNECT, NOW, NOW, Accept),
        (S.LOADED, K.WARM_UP, NOW, NOW, Refuse),
        (S.CONNECTING, K.WARM_UP, NOW, NOW, Park),
        (S.CONNECTING, K.DRAIN, NOW, NOW, Park),
        (S.CONNECTING, K.CONNECT, NOW, NEXT, Accept),
        (S.CONNECTING, K.CONNECT, NOW, NOW, Refuse),
        (S.WARMING, K.WARM_UP, NOW, NOW, Accept),
        (S.WARMING, K.WARM_UP, NOW, NEXT, Park),
        (S.WARMING, K.CONNECT, NOW, NEXT, Accept),
        (S.READY, K.CONNECT, NOW, NEXT, Accept),
        (S.READY, K.CONNECT, NOW, NOW, Refuse),
        (S.READY, K.CONNECT, NOW, OLD, Refuse),
        (S.READY, K.LOAD, NOW, NEXT, Refuse),
        (S.READY, K.DRAIN, NOW, NEXT, Accept),
        (S.DRAINING, K.DRAIN, NOW, NOW, Refuse),
        (S.DRAINING, K.CONNECT, NOW, NEXT, Refuse),
        (S.FAILED, K.LOAD, NOW, NEXT, Accept),
        (S.FAILED, K.CONNECT, NOW, NEXT, Refuse),
        (S.STOPPED, K.LOAD, NOW, NEXT, Refuse),
    ],
)
def test_verdicts(
    state: RunnerState, kind: TaskKind, mine: Epoch | None, its: Epoch, expected: type
) -> None:
    assert isinstance(verdict(state, kind, mine, its), expected)


@pytest.mark.parametrize("state", RunnerState)
def test_a_stop_is_accepted_anywhere_unless_it_is_stale(state: RunnerState) -> None:
    assert isinstance(verdict(state, TaskKind.STOP, NOW, NOW), Accept)
    assert isinstance(verdict(state, TaskKind.STOP, NOW, OLD), Refuse)


@pytest.mark.parametrize("kind", [*TaskKind, "dance"])
def test_an_epoch_with_no_room_above_it_is_refused(kind: str) -> None:
    for far in (Epoch(MAX_EPOCH + 1, 0), Epoch(2, MAX_EPOCH + 1), Epoch(2**64 - 1, 2**64 - 1)):
        assert isinstance(verdict(RunnerState.LOADED, kind, NOW, far), Refuse)
    assert isinstance(verdict(S.LOADED, K.LOAD, NOW, Epoch(MAX_EPOCH, MAX_EPOCH)), Accept)


def test_a_refusal_names_the_state_found_and_those_that_accept() -> None:
    answer = verdict(RunnerState.IDLE, TaskKind.DRAIN, None, NOW)
    assert answer == Refuse("drain found the runner idle; it is accepted in ready")
    answer = verdict(RunnerState.READY, TaskKind.LOAD, NOW, NEXT)
    assert answer == Refuse("load found the runner ready; it is accepted in failed, idle or loaded")


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    answer = verdict(RunnerState.READY, "dance", NOW, NEXT)
    assert isinstance(answer, Refuse)
    assert all(kind in answer.reason for kind in TaskKind)


EPOCHS = st.builds(Epoch, st.integers(0, 3), st.integers(0, 3))


@given(
    st.sampled_from(RunnerState),
    st.one_of(st.sampled_from(TaskKind), st.text(max_size=8)),
    st.none() | EPOCHS,
    EPOCHS,
)
def test_a_verdict_never_raises_and_is_true(
    state: RunnerState, kind: str, mine: Epoch | None, its: Epoch
) -> None:
    answer = verdict(state, kind, mine, its)
    if isinstance(answer, Accept):
        assert isinstance(advance(RUNNER, state, answer.event), Moved)
        assert answer.event == STARTS[TaskKind(kind)]
        assert mine is None or its >= mine
    else:
        assert answer.reason
