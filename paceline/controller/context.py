"""Whom an event is about, in the words that every log uses: node, runner, instance, rank, epoch and
task, each where it applies. So one search finds all that happened to a thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paceline.controller.actions import Action
from paceline.controller.book import Book


def about(action: Action, book: Book) -> dict[str, Any]:
    """As the book has it before the action is carried out."""
    said: Callable[[str], Any] = lambda name: getattr(action, name, None)  # noqa: E731
    entry = book.tasks.get(said("task_id"))
    task = said("task") or (entry.task if entry else None)
    name: Any = said("runner") or (entry.runner if entry else None)
    runner = book.runners.get(name)
    seat = runner.seat if runner else None
    instance: Any = said("instance") or (seat.instance if seat else None)
    inst = book.instances.get(instance)
    epoch = task.epoch if task else said("epoch") or (inst.epoch if inst else None)
    rank = said("rank")
    found = {
        "node": said("node") or (runner.node if runner else None),
        "runner": name,
        "instance": instance,
        "rank": seat.rank if rank is None and seat else rank,
        "epoch": str(epoch) if epoch else None,
        "task": task.task_id if task else None,
    }
    return {key: value for key, value in found.items() if value is not None}
