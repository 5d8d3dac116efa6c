"""Messages on the control path: to and from the controller, msgpack with a `type` tag each.

Facts go up (beats), orders go down. Every order is idempotent: it names what it is about, and a
repetition changes nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from paceline.types.facts import GatewayFacts, LinkOffer, NodeFacts, RunnerFacts
from paceline.types.ids import Epoch, InstanceId, NodeName, RunnerId
from paceline.types.instance import InstanceView
from paceline.types.links import ProbeOffer
from paceline.types.tasks import Task
from paceline.types.weights import ModelSources

PROTOCOL = 1


# --- to the controller ---------------------------------------------------------------------------


# `number` grows with each beat of a sender: one that comes after a later one is old news. 0: the
# sender does not count.


class NodeBeat(msgspec.Struct, frozen=True, tag="node_beat"):
    facts: NodeFacts
    protocol: int = PROTOCOL
    number: int = 0


class RunnerBeat(msgspec.Struct, frozen=True, tag="runner_beat"):
    facts: RunnerFacts
    protocol: int = PROTOCOL
    number: int = 0


class GatewayBeat(msgspec.Struct, frozen=True, tag="gateway_beat"):
    facts: GatewayFacts
    protocol: int = PROTOCOL
    number: int = 0


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag="ask"):
    """A gateway's question or order for a person; answered by `Answer` with the same number.

    `verb` is a key of the controller's table of verbs, `body` its arguments (plain data).
    """

    number: int
    verb: str
    body: dict[str, Any] = {}


ToController = NodeBeat | RunnerBeat | GatewayBeat | Ask


# --- from the controller -------------------------------------------------------------------------
#
# Orders to an agent carry the `term` of the controller that gives them, as tasks do in their
# epoch: a node that has heeded a newer term heeds no older one.


class Launch(msgspec.Struct, frozen=True, kw_only=True, tag="launch"):
    """To an agent: have a process of this name. Repeating it starts nothing twice, and a name
    that has already ended is not started again."""

    runner_id: RunnerId
    incarnation: str
    memory_bytes: int
    term: int = 0


class Reserve(msgspec.Struct, frozen=True, kw_only=True, tag="reserve"):
    """To an agent: from now on count so much for the process; it is about to load a shard.
    Never lowers what is counted, and takes no more than the node has: its beats show the result."""

    runner_id: RunnerId
    incarnation: str
    memory_bytes: int
    term: int = 0


class Kill(msgspec.Struct, frozen=True, kw_only=True, tag="kill"):
    """To an agent: end the process, SIGTERM first, SIGKILL after `grace_s`."""

    runner_id: RunnerId
    grace_s: float
    reason: str
    term: int = 0


class Peers(msgspec.Struct, frozen=True, kw_only=True, tag="peers"):
    """To an agent: whose links it measures, and whom it lets measure. The last one holds."""

    incarnation: str
    measure: dict[NodeName, ProbeOffer]
    admit: tuple[str, ...]
    """CURVE keys of those who measure the way here, Z85."""
    term: int = 0


class Assign(msgspec.Struct, frozen=True, tag="assign"):
    """To a runner: here is a task."""

    task: Task


class Line(msgspec.Struct, frozen=True, kw_only=True, tag="line"):
    """To every rank of an epoch: the offers known so far (all of them once it can connect) and,
    for rank 0, the keys of the gateways it admits. Sent whenever it changed; the last one holds."""

    epoch: Epoch
    offers: tuple[LinkOffer, ...]
    gateway_keys: tuple[str, ...]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Where streams for a model go."""

    instance: InstanceId
    model: str
    epoch: Epoch
    node: NodeName
    address: str
    public_key: str
    numerics_id: str
    running: int
    waiting: int
    pages_total: int
    """Pages of the whole line: no single stream can be longer than pages_total * PAGE_TOKENS."""
    prefix_queries: int = 0
    prefix_hits: int = 0
    guesses_made: int = 0
    guesses_right: int = 0
    """Tokens, as `StreamLoad` counts them; for metrics."""


class ControllerCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in this controller's term, for metrics."""

    tasks: dict[str, int] = {}
    """Tasks that ended, by `kind/state`."""
    events: dict[str, int] = {}
    """Events by kind."""
    nodes: dict[str, int] = {}
    """Nodes by state, now."""
    strangers: dict[str, int] = {}
    """Connections between processes that came to nothing, by the kind of process they came to."""


class Routes(msgspec.Struct, frozen=True, kw_only=True, tag="routes"):
    """To every gateway: the whole truth about what is served."""

    routes: tuple[Route, ...]
    instances: tuple[InstanceView, ...]
    term: int
    counts: ControllerCounts = ControllerCounts()
    models: tuple[ModelSources, ...] = ()
    """Of the instances: a gateway needs their tokenizers."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag="answer"):
    """`error` is the `code` of a PacelineError and `body` then {"message": …}; empty means done."""

    number: int
    error: str = ""
    body: Any = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One decision or observation of the controller, as a sentence with its facts."""

    number: int
    at: float
    """Unix seconds, for people; nothing decides by it."""
    kind: str
    sentence: str
    facts: dict[str, Any] = {}


FromController = Launch | Reserve | Kill | Peers | Assign | Line | Routes | Answer
ToAgent = Launch | Reserve | Kill | Peers
ToRunner = Assign | Line
ToGateway = Routes | Answer
