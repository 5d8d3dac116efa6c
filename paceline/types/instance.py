"""What is wanted and where it was put."""

from __future__ import annotations

import msgspec

from paceline.types.ids import Epoch, InstanceId, NodeName, RunnerId, TaskId
from paceline.types.links import Link
from paceline.types.model import Shard
from paceline.types.states import InstanceState, Objective, RunnerState, TaskState

DEFAULT_SEQUENCES = 16
DEFAULT_CONTEXT = 4096


class ManualSeat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rank of a placement that a person wrote: layers [start, stop) on a node."""

    rank: int
    node: NodeName
    start: int
    stop: int


class InstanceWish(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asked for; stored durably before the answer is sent."""

    id: InstanceId
    model: str
    min_nodes: int = 1
    max_nodes: int | None = None
    """None: the policy by checkpoint size decides."""
    objective: Objective = Objective.LATENCY
    dtype: str = "auto"
    seats: tuple[ManualSeat, ...] = ()
    """A placement that a person wrote; empty: the planner's."""
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


class RankForecast(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank is predicted to take. Bytes are of anonymous memory."""

    rank: int
    weight_bytes: int
    kv_bytes: int
    memory_bytes: int
    """All of it: activations, headroom and the process itself too."""
    free_bytes: int
    """What the node has for it."""
    stage_s: float
    """To bring one row through its layers, and on the last rank through the head."""
    hop_s: float
    """To bring a row to the next rank, or from the last the sampled id back to the driver."""


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a placement is predicted to reach, with short contexts."""

    seconds_per_token: float
    """Of one stream: every stage and every hop once."""
    tokens_per_s: float
    """Of all streams together once every rank is busy, one row a step: the slowest stage or link
    decides. Steps of more rows give more."""
    ranks: tuple[RankForecast, ...]


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Which node holds which rank with which layers, first rank first."""

    seats: tuple[SeatPlan, ...]
    dtype: str
    reasons: tuple[str, ...] = ()
    """Sentences that say why it is so."""
    forecast: Forecast | None = None
    """None where nobody has planned it: a line that was adopted."""

    @property
    def world_size(self) -> int:
        return len(self.seats)


class NoPlacement(msgspec.Struct, frozen=True, kw_only=True):
    """Why the model cannot be placed now; one sentence per node or group."""

    reasons: tuple[str, ...]


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """Where an instance would go now, or why nowhere."""

    model: str
    objective: Objective
    placement: Placement | None
    reasons: tuple[str, ...]
    disk_bytes: int = 0
    """Of the checkpoint's weights: what the policy goes by."""


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
    served: bool = False
    """It has been ready at least once in this controller's term."""
    retired: Epoch | None = None
    """Of the last line that was ended because it was decided, and not because it failed."""
    placed_because: tuple[str, ...] = ()
    """Why it is on these nodes."""
    forecast: Forecast | None = None


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
    drained: bool
    """It is to be empty: it gets no seats, and its own go to other nodes where they can."""
    incarnation: str
    host: str
    cpus: int
    memory_bytes: int
    reserved_bytes: int
    silence_s: float
    runners: tuple[RunnerId, ...]
    seconds_per_byte: float | None = None
    """What a byte of weights costs it in a step, as measured."""
    links: tuple[Link, ...] = ()
    """Ways to other nodes, as measured from it."""
    given_bytes: int = 0
    """Of checkpoints, to other nodes, since its start."""
