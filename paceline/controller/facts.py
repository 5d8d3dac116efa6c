"""The observed world: the last words of every node, runner and gateway, and when they came.

Times are of the controller's own monotonic clock. Silence is counted from the last word or from
the moment the controller itself was last awake, whichever is later: who slept cannot accuse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import msgspec

from paceline.types.control import GatewayBeat, NodeBeat, RunnerBeat
from paceline.types.facts import GatewayFacts, NodeFacts, RunnerFacts
from paceline.types.ids import GatewayId, NodeName, RunnerId
from paceline.types.model import ModelFacts
from paceline.types.timing import Timing

MAX_SPEAKERS = 4096
"""Nodes, runners or gateways that are remembered, each."""

FORGET_S = 60.0
"""Runners and gateways silent for so long are forgotten."""


_Told = NodeFacts | RunnerFacts


class NodeSeen(msgspec.Struct, frozen=True, kw_only=True):
    facts: NodeFacts
    heard_at: float
    steady_since: float
    """Since when it has not fallen silent for longer than a suspect may."""
    number: int = 0


class RunnerSeen(msgspec.Struct, frozen=True, kw_only=True):
    facts: RunnerFacts
    heard_at: float
    first_at: float
    number: int = 0


class GatewaySeen(msgspec.Struct, frozen=True, kw_only=True):
    facts: GatewayFacts
    heard_at: float
    number: int = 0


class ModelSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model that an instance wants."""

    facts: ModelFacts | None = None
    pulling: str = ""
    """How far its pull is, while one runs."""
    failure: str = ""
    """Why there are no facts: the last pull, or the checkpoint itself."""
    retry_at: float = 0.0


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that is observed at one moment."""

    cluster_id: str
    started_at: float
    awake_since: float
    nodes: Mapping[NodeName, NodeSeen] = {}
    runners: Mapping[RunnerId, RunnerSeen] = {}
    gateways: Mapping[GatewayId, GatewaySeen] = {}
    models: Mapping[str, ModelSeen] = {}

    def silence_s(self, heard_at: float, now: float) -> float:
        """Silence that can be held against the speaker."""
        return now - max(heard_at, self.awake_since)


class Observer:
    """Gathers beats into `Facts`. Beats of another cluster are left out and counted."""

    def __init__(self, cluster_id: str, now: float, timing: Timing) -> None:
        self.foreign_beats = 0
        self.strangers: Counter[str] = Counter()
        """Connections that came to nothing, by the kind of process that told of them."""
        self._timing = timing
        self._cluster_id = cluster_id
        self._started_at = self._awake_since = self._last_tick = now
        self._nodes: dict[NodeName, NodeSeen] = {}
        self._runners: dict[RunnerId, RunnerSeen] = {}
        self._gateways: dict[GatewayId, GatewaySeen] = {}

    def tick(self, now: float) -> float:
        """Call once per loop, before the messages that waited are taken. Returns the seconds
        that this process was stalled for, 0 when it was not."""
        gap, self._last_tick = now - self._last_tick, now
        if gap <= self._timing.stall_s:
            return 0.0
        self._awake_since = now
        return gap

    def take(self, beat: NodeBeat | RunnerBeat | GatewayBeat, now: float) -> bool:
        """False where the beat is not of this cluster, is overtaken (by a later one, or by a later
        incarnation), or too many speak."""
        match beat:
            case NodeBeat(facts=node):
                return self._is_ours(node.cluster_id) and self._take_node(node, beat.number, now)
            case RunnerBeat(facts=runner):
                return self._is_ours(runner.cluster_id) and self._take_runner(
                    runner, beat.number, now
                )
            case GatewayBeat(facts=gateway):
                return self._take_gateway(gateway, beat.number, now)

    def shares_name(self, beat: NodeBeat, now: float) -> NodeFacts | None:
        """Who lives under the name of this beat's node, and is another."""
        before = self._nodes.get(beat.facts.name)
        if (
            before is None
            or beat.facts.cluster_id != self._cluster_id
            or beat.facts.incarnation == before.facts.incarnation
            or self._silence_s(before, now) > self._timing.lost_s
        ):
            return None
        return before.facts

    def facts(
        self, models: Mapping[str, ModelSeen], now: float, keep: Collection[RunnerId] = ()
    ) -> Facts:
        """A snapshot that later beats do not change. Who has been silent for long is forgotten,
        but for the runners to `keep`: tokens may flow through them all the same."""
        for runner in [name for name, seen in self._runners.items() if _is_old(seen, now)]:
            if runner not in keep:
                del self._runners[runner]
        for gateway in [name for name, seen in self._gateways.items() if _is_old(seen, now)]:
            del self._gateways[gateway]
        return Facts(
            cluster_id=self._cluster_id,
            started_at=self._started_at,
            awake_since=self._awake_since,
            nodes=dict(self._nodes),
            runners=dict(self._runners),
            gateways=dict(self._gateways),
            models=dict(models),
        )

    def _is_ours(self, cluster_id: str) -> bool:
        ours = cluster_id == self._cluster_id
        self.foreign_beats += not ours
        return ours

    def _take_node(self, node: NodeFacts, number: int, now: float) -> bool:
        before = self._nodes.get(node.name)
        steady_since = -float("inf")
        if before is not None:
            if self._is_old_news(node, number, before, now):
                return False
            was_steady = self._silence_s(before, now) <= self._timing.suspect_s
            steady_since = before.steady_since if was_steady else now
        elif not _has_room(self._nodes, node.name):
            return False
        is_same = before is not None and before.facts.incarnation == node.incarnation
        self._count("node", node, before.facts if before and is_same else None)
        self._nodes[node.name] = NodeSeen(
            facts=node, heard_at=now, steady_since=steady_since, number=number
        )
        return True

    def _is_old_news(self, node: NodeFacts, number: int, before: NodeSeen, now: float) -> bool:
        """Of an earlier incarnation, or overtaken. The node's clock says which started later; it
        may have been set back, but who is gone does not go on beating."""
        if node.incarnation == before.facts.incarnation:
            return _is_overtaken(number, before)
        is_later = node.started_at > before.facts.started_at
        return not is_later and self._silence_s(before, now) <= self._timing.lost_s

    def _silence_s(self, seen: NodeSeen, now: float) -> float:
        return now - max(seen.heard_at, self._awake_since)

    def _take_runner(self, runner: RunnerFacts, number: int, now: float) -> bool:
        before = self._runners.get(runner.runner_id)
        if _is_overtaken(number, before) or not _has_room(self._runners, runner.runner_id):
            return False
        first_at = before.first_at if before else now
        self._count("runner", runner, before.facts if before else None)
        self._runners[runner.runner_id] = RunnerSeen(
            facts=runner, heard_at=now, first_at=first_at, number=number
        )
        return True

    def _count(self, kind: str, told: _Told, before: _Told | None) -> None:
        more = told.strangers - (before.strangers if before is not None else 0)
        self.strangers[kind] += max(0, more)

    def _take_gateway(self, gateway: GatewayFacts, number: int, now: float) -> bool:
        before = self._gateways.get(gateway.gateway_id)
        if _is_overtaken(number, before) or not _has_room(self._gateways, gateway.gateway_id):
            return False
        self._gateways[gateway.gateway_id] = GatewaySeen(facts=gateway, heard_at=now, number=number)
        return True


def _is_old(seen: RunnerSeen | GatewaySeen, now: float) -> bool:
    return now - seen.heard_at > FORGET_S


def _is_overtaken(number: int, before: NodeSeen | RunnerSeen | GatewaySeen | None) -> bool:
    """Whether a later beat of the same sender came first, or the same one before."""
    return before is not None and 0 < number <= before.number


def _has_room(seen: Collection[str], name: str) -> bool:
    return name in seen or len(seen) < MAX_SPEAKERS
