"""The names of states and kinds. What leads from one to another is `paceline.lifecycle`."""

from __future__ import annotations

from enum import StrEnum


class RunnerState(StrEnum):
    IDLE = "idle"
    FETCHING = "fetching"
    LOADING = "loading"
    LOADED = "loaded"
    CONNECTING = "connecting"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class TaskKind(StrEnum):
    FETCH = "fetch"
    LOAD = "load"
    CONNECT = "connect"
    WARM_UP = "warm_up"
    DRAIN = "drain"
    STOP = "stop"


class TaskState(StrEnum):
    PENDING = "pending"
    """Ordered, not yet seen by the runner."""
    PARKED = "parked"
    """Came too early; waits a bounded grace for a state that accepts it."""
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"

    @property
    def is_terminal(self) -> bool:
        return self in _TERMINAL


_TERMINAL = frozenset(
    {TaskState.COMPLETE, TaskState.FAILED, TaskState.CANCELLED, TaskState.TIMED_OUT}
)


class InstanceState(StrEnum):
    WANTED = "wanted"
    WAITING = "waiting"
    PLACING = "placing"
    STARTING = "starting"
    READY = "ready"
    RECOVERING = "recovering"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class Objective(StrEnum):
    """What a placement minimises."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    MEMORY = "memory"
