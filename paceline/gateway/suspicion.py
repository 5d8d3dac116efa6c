"""Whether a stream is what its lines die of. Pure decisions over plain facts.

A runner may die of what it is asked to compute, and a stream goes on wherever its record is sent:
one that kills would kill line after line, and pause every other stream each time. So:

- A line that fails under a stream that has gained nothing on it counts against that stream, as
  *shared* if others were there, as *alone* if not. Any token that it gains clears it.
- After SHARED shared failures, or one alone, it is a suspect. Suspects are tried one by one, each
  with a line to itself: one that gains a token is cleared and goes on with the others.
- After ALONE failures of a line that it had to itself it is guilty, and fails alone.

Failures come by chance too, so nobody is found guilty who ever had company or made progress.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from paceline.types.ids import InstanceId, StreamId

SHARED = 2
ALONE = 3


class Suspicion(msgspec.Struct, frozen=True):
    """Failures of lines in a row on which a stream gained nothing."""

    shared: int = 0
    alone: int = 0

    @property
    def is_suspect(self) -> bool:
        return self.alone > 0 or self.shared >= SHARED

    @property
    def is_guilty(self) -> bool:
        return self.alone >= ALONE

    def after_failure(self, *, alone: bool, gained: bool) -> Suspicion:
        """Its line failed; `gained`: the stream had got a token from it."""
        if gained:
            return INNOCENT
        if alone:
            return replace(self, alone=self.alone + 1)
        return replace(self, shared=self.shared + 1)


INNOCENT = Suspicion()


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A live stream as the court sees it."""

    stream: StreamId
    suspicion: Suspicion
    rides: InstanceId | None
    """The instance that carries it now."""


class Trial(msgspec.Struct, frozen=True):
    """One suspect of a model at a time has a line to itself."""

    accused: StreamId
    court: InstanceId | None
    """The instance that is kept for it; None while there is none to be had."""

    def allows(self, stream: StreamId, suspicion: Suspicion, instance: InstanceId) -> bool:
        """Whether a stream may be on that instance. Other suspects wait for their turn."""
        if stream == self.accused:
            return instance == self.court
        return not suspicion.is_suspect and instance != self.court


def trial(cases: Iterable[Case], instances: Sequence[InstanceId]) -> Trial | None:
    """Whom to try, of all live streams of one model in order of arrival, and on which of its
    `instances`, the least loaded first; None where nobody is suspected."""
    suspects = [case for case in cases if case.suspicion.is_suspect]
    if not suspects:
        return None
    accused = max(suspects, key=lambda case: (case.suspicion.alone, case.suspicion.shared))
    court = accused.rides or next(iter(instances), None)
    return Trial(accused.stream, court)
