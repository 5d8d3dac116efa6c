"""What happened in a schedule, for people."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from tests.simulation.schedule import Schedule


def trace(schedule: Schedule) -> list[str]:
    """The event log of the newest controller and the notes of the world, by time."""
    world = schedule.world
    said = [(at, words.format(*about)) for at, words, about in world.notes]
    said += [(event.at, f"    [{event.kind}] {event.sentence}") for event in world.log]
    return [f"{at:8.2f} {words}" for at, words in sorted(said, key=lambda pair: pair[0])]


@contextmanager
def quietly() -> Iterator[None]:
    """Thousands of decisions are judged, not printed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()
