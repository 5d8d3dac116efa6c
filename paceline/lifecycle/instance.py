"""The life of an instance. Only the user ends one: every state but the last accepts `deleted`, and
only `draining` leads to `stopped`."""

from __future__ import annotations

from enum import StrEnum

from paceline.lifecycle.machine import Machine
from paceline.types.states import InstanceState


class InstanceEvent(StrEnum):
    PLAN_STARTED = "plan_started"
    UNPLACED = "unplaced"
    PLACED = "placed"
    ADOPTED = "adopted"
    RESUMED = "resumed"
    REPLACED = "replaced"
    ALL_READY = "all_ready"
    SEAT_LOST = "seat_lost"
    GAVE_UP = "gave_up"
    DELETED = "deleted"
    ALL_GONE = "all_gone"


_S = InstanceState
_E = InstanceEvent

INSTANCE: Machine[InstanceState, InstanceEvent] = Machine(
    name="instance",
    states=InstanceState,
    events=InstanceEvent,
    start=InstanceState.WANTED,
    table={
        _S.WANTED: {
            _E.PLAN_STARTED: _S.PLACING,
            _E.UNPLACED: _S.WAITING,
            _E.ADOPTED: _S.RECOVERING,
            _E.DELETED: _S.DRAINING,
        },
        _S.WAITING: {
            _E.PLAN_STARTED: _S.PLACING,
            _E.UNPLACED: _S.WAITING,
            _E.ADOPTED: _S.RECOVERING,
            _E.RESUMED: _S.RECOVERING,
            _E.REPLACED: _S.RECOVERING,
            _E.DELETED: _S.DRAINING,
        },
        _S.PLACING: {
            _E.PLACED: _S.STARTING,
            _E.UNPLACED: _S.WAITING,
            _E.DELETED: _S.DRAINING,
        },
        _S.STARTING: {
            _E.ALL_READY: _S.READY,
            _E.SEAT_LOST: _S.STARTING,
            _E.GAVE_UP: _S.FAILED,
            _E.REPLACED: _S.STARTING,
            _E.UNPLACED: _S.WAITING,
            _E.DELETED: _S.DRAINING,
        },
        _S.READY: {
            _E.SEAT_LOST: _S.RECOVERING,
            _E.REPLACED: _S.RECOVERING,
            _E.UNPLACED: _S.WAITING,
            _E.DELETED: _S.DRAINING,
        },
        _S.RECOVERING: {
            _E.ALL_READY: _S.READY,
            _E.SEAT_LOST: _S.RECOVERING,
            _E.GAVE_UP: _S.FAILED,
            _E.REPLACED: _S.RECOVERING,
            _E.UNPLACED: _S.WAITING,
            _E.DELETED: _S.DRAINING,
        },
        _S.FAILED: {
            _E.ALL_READY: _S.READY,
            _E.SEAT_LOST: _S.FAILED,
            _E.REPLACED: _S.FAILED,
            _E.UNPLACED: _S.WAITING,
            _E.DELETED: _S.DRAINING,
        },
        _S.DRAINING: {
            _E.DELETED: _S.DRAINING,
            _E.ALL_GONE: _S.STOPPED,
        },
        _S.STOPPED: {},
    },
    meaning={
        _E.PLAN_STARTED: "nodes and model are known; the planner is asked",
        _E.UNPLACED: "there is no placement now; the reasons say what would change it",
        _E.PLACED: "every rank has a node",
        _E.ADOPTED: "living runners on its seats were found after a controller start",
        _E.RESUMED: "what it waited for is there again, and its seats were kept",
        _E.REPLACED: "its seats were given other nodes",
        _E.ALL_READY: "every rank of the line is ready",
        _E.SEAT_LOST: "a runner, its node or the line was lost",
        _E.GAVE_UP: "the same seat failed again and again; tried on with growing pauses",
        _E.DELETED: "the user asked for its end",
        _E.ALL_GONE: "none of its runners is left",
    },
)
