"""One pass of deciding: the facts and the book it rests on, and what it has given away so far."""

from __future__ import annotations

from collections.abc import Sequence, Set
from functools import cached_property

from paceline.controller.book import Book, InstanceBook, RunnerBook, TaskBook
from paceline.controller.facts import Facts
from paceline.controller.ledger import Ledger
from paceline.controller.nodes import NodeState, drained, next_silence, node_state
from paceline.controller.offers import links, measured
from paceline.types.ids import Epoch, NodeName, RunnerId, TaskId
from paceline.types.links import Links
from paceline.types.policy import DEFAULT_TIERS, Tier
from paceline.types.states import TaskKind
from paceline.types.timing import Timing

PLANS = 2
"""Most questions to the planner in one pass: each takes 10 to 40 ms among 200 nodes, 0.1 to 0.4 s
among 1,000, and nobody is heard meanwhile."""


class Pass:
    def __init__(
        self,
        facts: Facts,
        book: Book,
        now: float,
        timing: Timing,
        tiers: Sequence[Tier] = DEFAULT_TIERS,
    ) -> None:
        self.facts = facts
        self.book = book
        self.now = now
        self.timing = timing
        self.tiers = tiers
        self.names = book.names
        self.epochs = max(book.epochs, _newest_n(facts, book.term))
        self.plans = 0
        self.is_part = False
        """Whether there is more to plan than this pass may."""
        self.taken: set[RunnerId] = set()
        """Runners that this pass has given a seat."""
        self.next_wake = min(now + timing.longest_wait_s, next_silence(facts, now, timing))
        self.nodes: dict[NodeName, NodeState] = {
            name: node_state(facts, book, name, now, timing) for name in facts.nodes
        }

    def may_plan(self) -> bool:
        """Whether the planner may be asked once more in this pass. What it is to be asked takes a
        while to put together, too."""
        self.is_part |= self.plans >= PLANS
        return not self.is_part

    @cached_property
    def ledger(self) -> Ledger:
        """With what this pass has given away."""
        return Ledger(self.facts, self.book)

    @cached_property
    def seated(self) -> frozenset[RunnerId]:
        """Runners that sit on a seat."""
        instances = self.book.instances.values()
        return frozenset(seat.runner for inst in instances for seat in inst.seats if seat.runner)

    @cached_property
    def blanks(self) -> dict[NodeName, list[RunnerBook]]:
        """The blank runners of each node, oldest first."""
        found: dict[NodeName, list[RunnerBook]] = {}
        for runner in self.book.runners.values():
            if runner.is_blank:
                found.setdefault(runner.node, []).append(runner)
        return found

    @cached_property
    def _latest(self) -> dict[tuple[RunnerId, TaskKind], TaskBook]:
        tasks = self.book.tasks.values()
        return {(entry.runner, entry.kind): entry for entry in tasks if not entry.by_hand}

    def latest(self, runner: RunnerId | None, kind: TaskKind) -> TaskBook | None:
        """The newest task of a kind that the controller itself has given to a runner."""
        return self._latest.get((runner, kind)) if runner is not None else None

    @cached_property
    def ready(self) -> frozenset[NodeName]:
        return frozenset(name for name in self.nodes if self.is_ready(name))

    @cached_property
    def drained(self) -> Set[NodeName]:
        """Nodes that are to be empty."""
        return drained(self.facts, self.book)

    @property
    def open(self) -> frozenset[NodeName]:
        """Nodes that may be given seats."""
        return self.ready - self.drained

    @cached_property
    def ways(self) -> Links:
        """Between the nodes that may be given seats."""
        return links(self.facts, self.open)

    @cached_property
    def bad_edges(self) -> frozenset[frozenset[NodeName]]:
        """Ways between two reachable nodes that do not work."""
        found = (link for link in measured(self.facts, self.ready) if link.bad)
        return frozenset(frozenset((link.a, link.b)) for link in found)

    @property
    def is_settling(self) -> bool:
        """Too early after our start to conclude anything from what is not heard."""
        return self.now - self.facts.started_at < self.timing.settle_s

    def wake_at(self, at: float) -> None:
        """Look again then. What is past has been looked at in this pass: waking for it at once,
        over and over, would keep a core busy."""
        if at > self.now:
            self.next_wake = min(self.next_wake, at)

    def is_ready(self, node: NodeName) -> bool:
        return self.nodes.get(node) is NodeState.READY

    def runner_name(self) -> RunnerId:
        self.names += 1
        return RunnerId(f"r-{self.book.term}-{self.names}")

    def task_name(self, kind: str) -> TaskId:
        self.names += 1
        return TaskId(f"{kind}-{self.book.term}-{self.names}")

    def current_epoch(self) -> Epoch:
        """For tasks outside a line: newer than all of earlier terms, never newer than a line."""
        return Epoch(self.book.term, self.book.epochs)

    def next_epoch(self) -> Epoch:
        self.epochs += 1
        return Epoch(self.book.term, self.epochs)

    def is_due(self, inst: InstanceBook) -> bool:
        """Whether the line of an instance may be tried (again) now."""
        self.wake_at(inst.patience.not_before)
        return inst.patience.not_before <= self.now


def _newest_n(facts: Facts, term: int) -> int:
    """Of our term, as runners have it: whoever was given a task of a later epoch from outside
    would refuse ours."""
    epochs = (seen.facts.epoch for seen in facts.runners.values())
    return max((epoch.n for epoch in epochs if epoch and epoch.term == term), default=0)
