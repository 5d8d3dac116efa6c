"""What is observed. Everything here is level-triggered: each beat carries the whole truth of its
sender, so a lost beat costs nothing and a new controller learns all it needs from the next one."""

from __future__ import annotations

import msgspec

from paceline.types.ids import Epoch, GatewayId, InstanceId, NodeName, RunnerId, Seat
from paceline.types.links import Link, ProbeOffer
from paceline.types.model import Shard
from paceline.types.states import RunnerState
from paceline.types.tasks import TaskStatus
from paceline.types.weights import DepotOffer, HeldCheckpoint


class ProcessFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A runner process that lives on a node, as its parent sees it."""

    runner_id: RunnerId
    pid: int
    """0 until its process is there."""
    memory_bytes: int
    """What the ledger counts for it, from its launch until it is seen gone."""


class ProcessExit(msgspec.Struct, frozen=True, kw_only=True):
    """How a runner process ended. Negative `code` is a signal, as in `subprocess`."""

    runner_id: RunnerId
    pid: int
    code: int
    sentence: str
    log_tail: tuple[str, ...] = ()


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One node's whole truth. `processes` is a complete inventory of this incarnation: what it
    does not list is not there."""

    name: NodeName
    incarnation: str
    cluster_id: str
    pid: int
    host: str
    cpus: int
    memory_bytes: int
    """What the node offers to runners."""
    started_at: float = 0.0
    """Unix seconds by the node's own clock: which of two incarnations is the later."""
    blanks: int = 0
    """How many runners without a seat it keeps ready."""
    probe: ProbeOffer | None = None
    links: tuple[Link, ...] = ()
    """As measured from here."""
    processes: tuple[ProcessFacts, ...] = ()
    exits: tuple[ProcessExit, ...] = ()
    """The last ones, newest last; bounded."""
    term: int = 0
    """The newest of which it has heeded an order; 0: none."""
    leaving: bool = False
    """It was asked to end, and waits a while for its seats to be given to others."""
    depot: DepotOffer | None = None
    checkpoints: tuple[HeldCheckpoint, ...] = ()
    """What its depot gives; bounded."""
    given_bytes: int = 0
    """Of chunks, to other nodes, since its start."""
    strangers: int = 0
    """Connections to its agent's ports that came to nothing, since its start."""


class LinkOffer(msgspec.Struct, frozen=True, kw_only=True):
    """Where a rank may be reached in one epoch, and the key that proves it is the one."""

    epoch: Epoch
    rank: int
    address: str
    public_key: str
    """CURVE key of the rank's door *and* of its outgoing link, Z85."""
    front_address: str | None = None
    """Rank 0 only: where gateways submit; same key."""
    kv_generation: str = ""
    """The key of the driver whose steps wrote the rank's KV last; empty: nothing is in it."""


class LineHealth(msgspec.Struct, frozen=True, kw_only=True):
    """A rank's view of its line; ages by its own monotonic clock, in seconds."""

    upstream_silence_s: float | None = None
    downstream_silence_s: float | None = None
    steps: int = 0
    broken: str = ""
    """Why the rank left the line, once it has."""


class StreamLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What a driver carries."""

    running: int
    waiting: int
    pages_free: int
    pages_total: int
    tokens_emitted: int
    prefix_queries: int = 0
    """Prompt tokens of all streams admitted since the line was made."""
    prefix_hits: int = 0
    """Those of them that were not computed, because their pages were there."""
    guesses_made: int = 0
    """At next tokens, since the line was made."""
    guesses_right: int = 0


class WorkFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner's compute thread is at."""

    work: str
    """fetch, load or step; queue: it has not begun what waits for it"""
    silent_s: float
    """Since its last tick; there is one at every layer, or call to C of some."""
    patience_s: float
    """Silence after which it is stuck, as measured ticks have it."""

    @property
    def is_stuck(self) -> bool:
        return self.silent_s > self.patience_s


class RunnerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One runner's whole truth."""

    runner_id: RunnerId
    node: NodeName
    incarnation: str
    cluster_id: str
    pid: int
    state: RunnerState
    since_s: float
    """Seconds in this state."""
    seat: Seat | None = None
    model: str | None = None
    shard: Shard | None = None
    dtype: str | None = None
    kv_pages: int = 0
    epoch: Epoch | None = None
    """The newest epoch it has accepted."""
    offer: LinkOffer | None = None
    line: LineHealth | None = None
    load: StreamLoad | None = None
    work: WorkFacts | None = None
    """None while there is nothing to compute."""
    tasks: tuple[TaskStatus, ...] = ()
    """The last ones, newest last; bounded."""
    task_counts: dict[str, int] = {}
    """How many of its tasks ended how, by `kind/state`; kinds that are none count as `unknown`."""
    numerics_id: str | None = None
    seconds_per_byte: float | None = None
    """What a byte of weights costs it in a step, as measured at its start."""
    measured_bytes: int | None = None
    """Anonymous memory of the process."""
    strangers: int = 0
    """Connections to its ports that came to nothing, since its start."""
    reason: str = ""
    """Why it is failed, or what it waits for."""

    @property
    def is_stuck(self) -> bool:
        """It beats, and its compute thread will never do anything else."""
        return self.work is not None and self.work.is_stuck


class DriverLink(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway's link to the driver of a line: it is a witness of that driver's life."""

    instance: InstanceId
    epoch: Epoch
    silence_s: float


class GatewayFacts(msgspec.Struct, frozen=True, kw_only=True):
    gateway_id: GatewayId
    pid: int
    url: str
    public_key: str
    """CURVE key that its links to drivers use, Z85."""
    streams: int = 0
    links: tuple[DriverLink, ...] = ()
    term: int = 0
    """The newest of which it has heeded routes; 0: none."""
