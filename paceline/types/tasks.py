"""What the controller asks of a runner. A task ends exactly once; a repeated task_id is the same
task and is answered with its state."""

from __future__ import annotations

import msgspec

from paceline.types.ids import Epoch, NodeName, Seat, TaskId
from paceline.types.model import Shard
from paceline.types.states import TaskKind, TaskState
from paceline.types.weights import Source


class Fetch(msgspec.Struct, frozen=True, kw_only=True, tag="fetch"):
    """Have the model's files on this node's disk, as far as the shard needs them."""

    task_id: TaskId
    epoch: Epoch
    deadline_s: float
    model: str
    digest: str = ""
    """Of the checkpoint that the model is in this cluster; empty: whatever has the name here."""
    shard: Shard | None = None
    """None: all of it."""
    sources: tuple[Source, ...] = ()
    """Nodes that have it, or parts of it; the best first."""


class Load(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """Take a seat: read exactly this shard into memory and set up its KV pages. What the disk
    lacks of it is fetched first: a runner that holds other layers of the model gets no fetch."""

    task_id: TaskId
    epoch: Epoch
    deadline_s: float
    seat: Seat
    model: str
    shard: Shard
    dtype: str
    kv_pages: int
    memory_bytes: int
    digest: str = ""
    sources: tuple[Source, ...] = ()


class Connect(msgspec.Struct, frozen=True, kw_only=True, tag="connect"):
    """Join the line of this epoch: make fresh keys and sockets, offer them, and shake hands with
    both neighbours once a `Line` of the same epoch names them."""

    task_id: TaskId
    epoch: Epoch
    deadline_s: float
    seat: Seat
    world_size: int
    nodes: tuple[NodeName, ...]
    """Node of each rank: neighbours on one node talk over ipc."""


class WarmUp(msgspec.Struct, frozen=True, kw_only=True, tag="warm_up"):
    """Run one real step through the line, so that the first request meets warm caches."""

    task_id: TaskId
    epoch: Epoch
    deadline_s: float


class Drain(msgspec.Struct, frozen=True, kw_only=True, tag="drain"):
    """Take no new streams; complete when the running ones have ended."""

    task_id: TaskId
    epoch: Epoch
    deadline_s: float


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag="stop"):
    """Leave the line, free everything, end the process."""

    task_id: TaskId
    epoch: Epoch
    deadline_s: float


Task = Fetch | Load | Connect | WarmUp | Drain | Stop

TASK_KINDS: dict[type, TaskKind] = {
    Fetch: TaskKind.FETCH,
    Load: TaskKind.LOAD,
    Connect: TaskKind.CONNECT,
    WarmUp: TaskKind.WARM_UP,
    Drain: TaskKind.DRAIN,
    Stop: TaskKind.STOP,
}


class TaskStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A task as the runner that holds it reports it."""

    task_id: TaskId
    kind: str
    state: TaskState
    reason: str = ""
    progress: float = 0.0
    """0 … 1, counted in layers or bytes, whatever the task is made of."""
