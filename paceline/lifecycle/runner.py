"""The life of a runner, and what it does with a task that knocks."""

from __future__ import annotations

from enum import StrEnum

from paceline.lifecycle.machine import Machine
from paceline.types.states import RunnerState, TaskKind


class RunnerEvent(StrEnum):
    FETCH_STARTED = "fetch_started"
    FETCH_DONE = "fetch_done"
    LOAD_STARTED = "load_started"
    LOAD_DONE = "load_done"
    CONNECT_STARTED = "connect_started"
    CONNECT_DONE = "connect_done"
    WARM_UP_STARTED = "warm_up_started"
    WARM_UP_DONE = "warm_up_done"
    DRAIN_STARTED = "drain_started"
    DRAIN_DONE = "drain_done"
    TASK_FAILED = "task_failed"
    LINE_LOST = "line_lost"
    ENGINE_FAILED = "engine_failed"
    STOP = "stop"


_S = RunnerState
_E = RunnerEvent

RUNNER: Machine[RunnerState, RunnerEvent] = Machine(
    name="runner",
    states=RunnerState,
    events=RunnerEvent,
    start=RunnerState.IDLE,
    table={
        _S.IDLE: {
            _E.FETCH_STARTED: _S.FETCHING,
            _E.LOAD_STARTED: _S.LOADING,
            _E.STOP: _S.STOPPED,
        },
        _S.FETCHING: {
            _E.FETCH_DONE: _S.IDLE,
            _E.TASK_FAILED: _S.FAILED,
            _E.STOP: _S.STOPPED,
        },
        _S.LOADING: {
            _E.LOAD_DONE: _S.LOADED,
            _E.TASK_FAILED: _S.FAILED,
            _E.ENGINE_FAILED: _S.FAILED,
            _E.STOP: _S.STOPPED,
        },
        _S.LOADED: {
            _E.LOAD_STARTED: _S.LOADING,
            _E.CONNECT_STARTED: _S.CONNECTING,
            _E.ENGINE_FAILED: _S.FAILED,
            _E.STOP: _S.STOPPED,
        },
        _S.CONNECTING: {
            _E.CONNECT_STARTED: _S.CONNECTING,
            _E.CONNECT_DONE: _S.WARMING,
            _E.TASK_FAILED: _S.LOADED,
            _E.LINE_LOST: _S.LOADED,
            _E.ENGINE_FAILED: _S.FAILED,
            _E.STOP: _S.STOPPED,
        },
        _S.WARMING: {
            _E.CONNECT_STARTED: _S.CONNECTING,
            _E.WARM_UP_STARTED: _S.WARMING,
            _E.WARM_UP_DONE: _S.READY,
            _E.TASK_FAILED: _S.LOADED,
            _E.LINE_LOST: _S.LOADED,
            _E.ENGINE_FAILED: _S.FAILED,
            _E.STOP: _S.STOPPED,
        },
        _S.READY: {
            _E.CONNECT_STARTED: _S.CONNECTING,
            _E.DRAIN_STARTED: _S.DRAINING,
            _E.LINE_LOST: _S.LOADED,
            _E.ENGINE_FAILED: _S.FAILED,
            _E.STOP: _S.STOPPED,
        },
        _S.DRAINING: {
            _E.DRAIN_DONE: _S.DRAINING,
            _E.TASK_FAILED: _S.DRAINING,
            _E.LINE_LOST: _S.LOADED,
            _E.ENGINE_FAILED: _S.FAILED,
            _E.STOP: _S.STOPPED,
        },
        _S.FAILED: {
            _E.FETCH_STARTED: _S.FETCHING,
            _E.LOAD_STARTED: _S.LOADING,
            _E.STOP: _S.STOPPED,
        },
        _S.STOPPED: {
            _E.STOP: _S.STOPPED,
        },
    },
    meaning={
        _E.FETCH_STARTED: "a fetch task was accepted",
        _E.FETCH_DONE: "the model's files are on this node's disk",
        _E.LOAD_STARTED: "a load task was accepted; what was loaded before is given up",
        _E.LOAD_DONE: "the shard is in memory and its KV pages are set up",
        _E.CONNECT_STARTED: "a connect task was accepted; a line joined before is left",
        _E.CONNECT_DONE: "both neighbours have shaken hands",
        _E.WARM_UP_STARTED: "a warm-up task was accepted",
        _E.WARM_UP_DONE: "a real step went through the line",
        _E.DRAIN_STARTED: "a drain task was accepted; no new streams are taken",
        _E.DRAIN_DONE: "the last stream has ended; only a stop is waited for",
        _E.TASK_FAILED: "the task in hand ended without its result",
        _E.LINE_LOST: "the line broke or a neighbour fell silent; the weights are kept",
        _E.ENGINE_FAILED: "the weights or a step cannot be trusted any more",
        _E.STOP: "a stop task was accepted, or the parent is gone",
    },
)

STARTS: dict[TaskKind, RunnerEvent] = {
    TaskKind.FETCH: RunnerEvent.FETCH_STARTED,
    TaskKind.LOAD: RunnerEvent.LOAD_STARTED,
    TaskKind.CONNECT: RunnerEvent.CONNECT_STARTED,
    TaskKind.WARM_UP: RunnerEvent.WARM_UP_STARTED,
    TaskKind.DRAIN: RunnerEvent.DRAIN_STARTED,
    TaskKind.STOP: RunnerEvent.STOP,
}
"""The event with which a task of each kind begins."""

PROGRESS: frozenset[RunnerEvent] = frozenset(
    {
        RunnerEvent.FETCH_DONE,
        RunnerEvent.LOAD_DONE,
        RunnerEvent.CONNECT_DONE,
        RunnerEvent.WARM_UP_DONE,
    }
)
"""What a runner comes to by itself when the task in hand goes well."""
