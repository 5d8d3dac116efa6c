"""What is wanted and where it was put."""

from __future__ import annotations

import msgspec

from paceline.types.ids import Epoch, InstanceId, NodeName, RunnerId, TaskId
from paceline.types.model import Shard
from paceline.types.states import InstanceState, Objective, RunnerState, TaskState

DEFAULT_SEQUENCES = 16
DEFAULT_CONTEXT = 4096


class InstanceWish(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asked for; stored durably before the answer is sent."""

    id: InstanceId
    model: str
    min_nodes: int = 1
    max_nodes: int | None = None
    """None: the policy by checkpoint size decides."""
    objective: Objective = Objective.LATENCY
    dtype: str = "auto"
    kv_tokens: int | None = None
    """Tokens of KV for all sequences together; None: DEFAULT_SEQUENCES x 512, at least one
    whole context of the model or DEFAULT_CONTEXT, whichever is smaller."""
    deleted: bool = False
    """The user asked for its end; kept until nothing of it is left."""


class SeatPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One rank of a placement."""

    rank: int
    node: NodeName
    shard: Shard
    memory_bytes: int
    """Predicted anonymous memory of the runner, in bytes: what the ledger reserves."""
    kv_pages: int


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Which node holds which rank with which layers, first rank first."""

    seats: tuple[SeatPlan, ...]
    dtype: str
    reasons: tuple[str, ...] = ()
    """Sentences that say why it is so."""

    @property
    def world_size(self) -> int:
        return len(self.seats)


class NoPlacement(msgspec.Struct, frozen=True, kw_only=True):
    """Why the model cannot be placed now; one sentence per node or group."""

    reasons: tuple[str, ...]


class RunnerView(msgspec.Struct, frozen=True, kw_only=True):
    id: RunnerId
    rank: int
    node: NodeName
    pid: int | None
    state: RunnerState
    layers: tuple[int, int]
    """[start, stop)"""
    memory_bytes: int | None = None
    """Anonymous memory as measured."""


class InstanceView(msgspec.Struct, frozen=True, kw_only=True):
    """An instance as people see it, in the API and the CLI."""

    id: InstanceId
    model: str
    state: InstanceState
    epoch: Epoch | None
    world_size: int
    dtype: str
    reasons: tuple[str, ...]
    """Sentences: why it is in this state and what would change it."""
    runners: tuple[RunnerView, ...]
    numerics_id: str | None = None


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task as people see it."""

    id: TaskId
    runner: RunnerId
    kind: str
    epoch: Epoch | None = None
    """None: it could not even be read."""
    state: TaskState
    reason: str = ""
    progress: float = 0.0


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A node as people see it."""

    name: NodeName
    state: str
    """ready, suspect, unreachable or lost"""
    incarnation: str
    host: str
    cpus: int
    memory_bytes: int
    reserved_bytes: int
    silence_s: float
    runners: tuple[RunnerId, ...]
