"""Carrying out what was decided: every action writes its part of the book and sends its orders.

An order that does not arrive is not an error: `decide` finds that nothing came of it and repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from paceline.cluster.base import Cluster
from paceline.controller import actions as do
from paceline.controller.book import Book, TaskBook, reservation
from paceline.controller.record import RECORDS, enter_runner, put, put_seat
from paceline.types.control import Assign, FromController, Kill, Launch, Reserve
from paceline.types.errors import PacelineError
from paceline.types.ids import InstanceId, Seat

Post = Callable[[str, FromController], bool]
"""Sends a message to the peer of that name; False if it could not be sent now."""


class Actor:
    """`forget(instance)` removes a wish durably (may raise PacelineError); `pull(model)` starts
    to bring a model here."""

    def __init__(
        self,
        book: Book,
        cluster: Cluster,
        post: Post,
        *,
        forget: Callable[[InstanceId], None],
        pull: Callable[[str], None],
    ) -> None:
        self.book = book
        self._cluster = cluster
        self._post = post
        self._forget = forget
        self._pull = pull
        self._table: dict[type[do.Action], Callable[[Any, float], None]] = {
            do.Pull: self._start_pull,
            do.Forget: self._forget_instance,
            do.LaunchRunner: self._launch,
            do.LaunchBlank: self._launch_blank,
            do.Take: self._take,
            do.Order: self._order,
            do.SendLine: self._send_line,
            do.KillRunner: self._kill,
            do.Introduce: self._introduce,
            do.OrderAgain: self._order_again,
            do.TellAgain: self._tell_again,
        }

    def act(self, action: do.Action, now: float) -> None:
        record = RECORDS.get(type(action))
        if record is not None:
            record(self.book, action, now)
        else:
            self._table[type(action)](action, now)

    def _start_pull(self, action: do.Pull, now: float) -> None:
        self._pull(action.model)

    def _forget_instance(self, action: do.Forget, now: float) -> None:
        inst = self.book.instances[action.instance]
        try:
            self._forget(inst.id)
        except PacelineError as error:
            reasons = (f"draining: it is gone, but that cannot be written down yet: {error}",)
            put(self.book, replace(inst, patience=inst.patience.again(now, 0.0), reasons=reasons))
        else:
            del self.book.instances[inst.id]

    def _launch(self, action: do.LaunchRunner, now: float) -> None:
        self._seat_runner(action, now, in_inventory=False)
        self._order_launch(action)

    def _launch_blank(self, action: do.LaunchBlank, now: float) -> None:
        enter_runner(self.book, action, now, seat=None, in_inventory=False)
        self._order_launch(action)

    def _order_launch(self, action: do.LaunchRunner | do.LaunchBlank) -> None:
        order = Launch(
            runner_id=action.runner,
            incarnation=action.incarnation,
            memory_bytes=action.memory_bytes,
            term=self.book.term,
        )
        self._cluster.launch(action.node, order)

    def _take(self, action: do.Take, now: float) -> None:
        known = self.book.runners.get(action.runner)
        self._seat_runner(action, now, in_inventory=known is None or known.in_inventory)
        self._cluster.reserve(
            action.node, reservation(self.book.runners[action.runner], self.book.term)
        )

    def _seat_runner(
        self, action: do.LaunchRunner | do.Take, now: float, *, in_inventory: bool
    ) -> None:
        seat = Seat(action.instance, action.rank)
        enter_runner(self.book, action, now, seat=seat, in_inventory=in_inventory)
        inst = self.book.instances[action.instance]
        put_seat(self.book, inst, replace(inst.seats[action.rank], runner=action.runner))

    def _order(self, action: do.Order, now: float) -> None:
        self.book.tasks[action.task.task_id] = TaskBook(
            task=action.task,
            runner=action.runner,
            sent_at=now,
            moved_at=now,
            ordered_at=now,
        )
        self._post(f"runner:{action.runner}", Assign(action.task))

    def _order_again(self, action: do.OrderAgain, now: float) -> None:
        entry = self.book.tasks[action.task_id]
        self.book.tasks[action.task_id] = replace(entry, sent_at=now)
        self._post(f"runner:{entry.runner}", Assign(entry.task))

    def _send_line(self, action: do.SendLine, now: float) -> None:
        self.book.lines_sent[action.runner] = (action.line, now)
        self._post(f"runner:{action.runner}", action.line)

    def _kill(self, action: do.KillRunner, now: float) -> None:
        if action.runner not in self.book.runners:
            enter_runner(self.book, action, now, seat=None, in_inventory=True)
        known = self.book.runners[action.runner]
        self.book.runners[action.runner] = replace(known, kill=action.why, told_at=now)
        order = Kill(
            runner_id=action.runner,
            grace_s=action.grace_s,
            reason=action.why,
            term=self.book.term,
        )
        self._cluster.kill(action.node, action.incarnation, order)

    def _introduce(self, action: do.Introduce, now: float) -> None:
        self.book.introduced = (action.offers, now)
        for node, peers in action.peers.items():
            self._cluster.introduce(node, peers)

    def _tell_again(self, action: do.TellAgain, now: float) -> None:
        runner = self.book.runners[action.runner]
        if isinstance(action.order, Launch):
            self.book.runners[runner.id] = replace(runner, sent_at=now)
            self._cluster.launch(runner.node, action.order)
        elif isinstance(action.order, Reserve):
            self.book.runners[runner.id] = replace(runner, sent_at=now)
            self._cluster.reserve(runner.node, action.order)
        else:
            self.book.runners[runner.id] = replace(runner, told_at=now)
            self._cluster.kill(runner.node, runner.incarnation, action.order)
