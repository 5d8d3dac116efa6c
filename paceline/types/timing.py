"""Every patience of a cluster, in seconds of the waiting process's own monotonic clock."""

from __future__ import annotations

import itertools
import math

import msgspec

from paceline.types.errors import InvalidRequest
from paceline.types.states import TaskKind

DEADLINES_S: dict[TaskKind, float] = {
    TaskKind.FETCH: 60.0,
    TaskKind.LOAD: 60.0,
    TaskKind.CONNECT: 15.0,
    TaskKind.WARM_UP: 60.0,
    TaskKind.DRAIN: 30.0,
    TaskKind.STOP: 5.0,
}
"""For fetch and load without progress; for the others altogether."""


class Timing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    beat_s: float = 0.5
    """Between two beats of a node, a runner or a gateway."""
    task_grace_s: float = 0.25
    """How long a runner keeps a task that came too early."""
    suspect_s: float = 1.5
    """Silence after which nothing new is given to a node."""
    lost_s: float = 3.0
    """Silence after which a node or runner is lost, where a witness agrees."""
    hung_s: float = 10.0
    """The same where nobody can be a witness."""
    stall_s: float = 1.0
    """A gap in the controller's own loop after which silence is counted anew."""
    settle_s: float = 3.0
    """After a start: how long living runners have to show themselves."""
    steady_s: float = 2.0
    """How long a node that was lost must beat before it is given anything."""
    resend_s: float = 1.0
    """An order that shows no effect is sent again."""
    start_s: float = 60.0
    """From the order to launch a runner to its first beat."""
    spare_s: float = 10.0
    """How long a runner that no seat needs is left alone."""
    healthy_s: float = 10.0
    """Of being ready, after which earlier failures are forgotten."""
    margin_s: float = 2.0
    """Beyond a task's deadline, so that the runner's own report of it comes first."""
    kill_grace_s: float = 2.0
    keep_tasks_s: float = 60.0
    """How long a finished task is remembered."""
    longest_wait_s: float = 0.25
    deadlines_s: dict[TaskKind, float] = msgspec.field(default_factory=DEADLINES_S.copy)

    def deadline_s(self, kind: TaskKind) -> float:
        """Of a task of this kind; kinds that a configuration leaves out keep their default."""
        return self.deadlines_s.get(kind, DEADLINES_S[kind])


DEFAULT_TIMING = Timing()


def read_timing(text: str) -> Timing:
    """From JSON, as one process tells another. Raises ValueError."""
    return msgspec.json.decode(text, type=Timing)


_ORDERED = ("beat_s", "suspect_s", "lost_s", "hung_s")


def check_timing(timing: Timing) -> None:
    """Raises InvalidRequest for values that could never work."""
    for name in Timing.__struct_fields__:
        value = getattr(timing, name)
        for number in value.values() if isinstance(value, dict) else (value,):
            if not (math.isfinite(number) and number > 0):
                raise InvalidRequest(f"timing.{name} must be above zero, not {number:g}")
    for shorter, longer in itertools.pairwise(_ORDERED):
        if getattr(timing, shorter) >= getattr(timing, longer):
            raise InvalidRequest(
                f"timing.{shorter} ({getattr(timing, shorter):g} s) must be less than "
                f"timing.{longer} ({getattr(timing, longer):g} s)"
            )
    if timing.suspect_s < 2 * timing.beat_s:
        raise InvalidRequest(
            f"timing.suspect_s ({timing.suspect_s:g} s) must allow for one lost beat: "
            f"at least twice timing.beat_s ({timing.beat_s:g} s)"
        )
