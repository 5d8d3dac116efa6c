"""The memory ledger: what is reserved on each node. A runner counts from its launch until it is
seen gone, and a seat from its placement until its runner counts. Runners of an instance that sit on
no seat of it count towards its empty seats there: a seat takes one of them, or waits for its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from paceline.controller.book import Book, InstanceBook
from paceline.controller.facts import Facts
from paceline.types.ids import InstanceId, NodeName, RunnerId


class Reservation(msgspec.Struct, frozen=True):
    node: NodeName
    memory_bytes: int
    instance: InstanceId | None
    runner: RunnerId | None
    """None: a seat that has no runner yet."""
    blank: bool = False
    """It yields to whatever is placed."""


class Ledger:
    """Of one pass of deciding: what the pass itself gives away is added as it goes."""

    def __init__(self, facts: Facts, book: Book) -> None:
        self._facts = facts
        runners = list(_runners(facts, book))
        self._entries = [*runners, *_empty_seats(book, runners)]

    def reserve(self, reservation: Reservation) -> None:
        self._entries.append(reservation)

    def reserved(self, node: NodeName) -> int:
        """Bytes reserved on the node, all told."""
        return sum(entry.memory_bytes for entry in self._entries if entry.node == node)

    def room_for_seat(self, inst: InstanceBook, node: NodeName) -> int:
        """Bytes for a runner that is to be launched now: all that nobody else holds. The empty
        seats of the instance itself do not count against it."""
        return self.capacity(node) - sum(
            entry.memory_bytes
            for entry in self._entries
            if entry.node == node and not (entry.runner is None and entry.instance == inst.id)
        )

    def held(self, runner: RunnerId) -> int:
        """Bytes that a runner counts for."""
        return sum(entry.memory_bytes for entry in self._entries if entry.runner == runner)

    def free_for(self, inst: InstanceBook, node: NodeName) -> int:
        """Bytes that the planner may give to the instance: its own runners and blank ones count
        as gone."""
        others = sum(
            entry.memory_bytes
            for entry in self._entries
            if entry.node == node and entry.instance != inst.id and not entry.blank
        )
        return max(self.capacity(node) - others, 0)

    def capacity(self, node: NodeName) -> int:
        """Bytes that the node offers in all."""
        seen = self._facts.nodes.get(node)
        return seen.facts.memory_bytes if seen else 0


def _runners(facts: Facts, book: Book) -> Iterator[Reservation]:
    """Every process of an inventory, and every launch that no inventory shows yet."""
    counted: set[RunnerId] = set()
    for node in facts.nodes.values():
        for process in node.facts.processes:
            counted.add(process.runner_id)
            known = book.runners.get(process.runner_id)
            ordered = known.memory_bytes if known else 0
            yield Reservation(
                node.facts.name,
                max(process.memory_bytes, ordered),
                _instance_of(facts, book, process.runner_id),
                process.runner_id,
                blank=known is not None and known.is_blank,
            )
    for runner in book.runners.values():
        if runner.id not in counted:
            owner = _instance_of(facts, book, runner.id)
            yield Reservation(
                runner.node, runner.memory_bytes, owner, runner.id, blank=runner.is_blank
            )


def _instance_of(facts: Facts, book: Book, runner: RunnerId) -> InstanceId | None:
    known = book.runners.get(runner)
    if known is not None and known.seat is not None:
        return known.seat.instance
    seen = facts.runners.get(runner)
    return seen.facts.seat.instance if seen and seen.facts.seat else None


def _empty_seats(book: Book, runners: Sequence[Reservation]) -> Iterator[Reservation]:
    """What the empty seats of each instance take beyond what its spare runners hold already."""
    for inst in book.instances.values():
        seated = {seat.runner for seat in inst.seats}
        needs = Counter[NodeName]()
        for seat in inst.seats:
            if seat.runner is None:
                needs[seat.plan.node] += seat.plan.memory_bytes
        for runner in runners:
            if runner.instance == inst.id and runner.runner not in seated:
                needs[runner.node] -= runner.memory_bytes
        for node, need in (+needs).items():
            yield Reservation(node, need, inst.id, None)
