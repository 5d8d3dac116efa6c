"""What the controller remembers of its own decisions. It lives in memory alone: after a restart
everything but the wishes is learnt from the beats of what lives."""

from __future__ import annotations

from collections import Counter

import msgspec

from paceline.process.backoff import Backoff
from paceline.types.control import Line, Reserve
from paceline.types.ids import Epoch, InstanceId, NodeName, RunnerId, Seat, TaskId
from paceline.types.instance import Forecast, InstanceWish, Placement, SeatPlan
from paceline.types.links import ProbeOffer
from paceline.types.states import InstanceState, TaskKind, TaskState
from paceline.types.tasks import TASK_KINDS, Task


class Patience(msgspec.Struct, frozen=True):
    """How long to wait before the same thing is tried again."""

    backoff: Backoff = Backoff()
    not_before: float = 0.0

    def again(self, now: float, healthy_s: float) -> Patience:
        """It failed, after `healthy_s` seconds of health."""
        backoff, delay_s = self.backoff.after(healthy_s)
        return Patience(backoff, now + delay_s)


class SeatBook(msgspec.Struct, frozen=True, kw_only=True):
    """A seat of a placed instance and who sits on it."""

    plan: SeatPlan
    runner: RunnerId | None = None
    patience: Patience = Patience()
    trouble: str = ""
    """What happened to it last, until it has been healthy again."""


class InstanceBook(msgspec.Struct, frozen=True, kw_only=True):
    wish: InstanceWish
    inherited: bool = False
    """Wanted already when this controller started: its runners may live."""
    state: InstanceState = InstanceState.WANTED
    dtype: str = ""
    seats: tuple[SeatBook, ...] = ()
    placed_because: tuple[str, ...] = ()
    forecast: Forecast | None = None
    epoch: Epoch | None = None
    """Of the line that is being made or stands."""
    retired: Epoch | None = None
    """Of the last line that was moved away from while it stood."""
    stays: tuple[str, ...] = ()
    """Why it does not leave a node that is to be empty."""
    patience: Patience = Patience()
    """With the line."""
    trouble: str = ""
    """Why the line broke last, until it has been healthy again."""
    ready_since: float | None = None
    served: bool = False
    """It has been ready at least once."""
    outlived: int = 0
    """Failures in a row after which it became ready all the same."""
    reasons: tuple[str, ...] = ()
    stumble: str = ""
    """The last exception met when deciding about it."""
    asked: object = None
    """What the planner was last asked in vain."""
    planned_at: float = 0.0
    """When it last got a placement, or was left without one."""

    @property
    def id(self) -> InstanceId:
        return self.wish.id

    @property
    def placement(self) -> Placement | None:
        if not self.seats:
            return None
        seats = tuple(seat.plan for seat in self.seats)
        return Placement(seats=seats, dtype=self.dtype, reasons=self.placed_because)

    @property
    def is_fresh(self) -> bool:
        """Nothing has failed since it was healthy last."""
        untroubled = all(seat.patience == Patience() and not seat.trouble for seat in self.seats)
        return untroubled and self.patience == Patience() and not self.trouble

    @property
    def failures(self) -> int:
        """In a row, of the seat or line that failed most."""
        every = [self.patience, *(seat.patience for seat in self.seats)]
        return max(patience.backoff.ends for patience in every)

    @property
    def fruitless(self) -> int:
        """Failures in a row since it was ready last, or at all."""
        return self.failures - self.outlived

    def healthy_s(self, now: float) -> float:
        return 0.0 if self.ready_since is None else now - self.ready_since


class RunnerBook(msgspec.Struct, frozen=True, kw_only=True):
    """A runner that was launched or adopted; here until it is seen gone."""

    id: RunnerId
    node: NodeName
    incarnation: str
    memory_bytes: int
    seat: Seat | None
    """The seat it was meant for; another may have taken it since. None: it is blank, or a stray."""
    ordered_at: float
    sent_at: float
    """When the last order to launch it, or to reserve memory for it, was sent."""
    told_at: float = 0.0
    """When the last order to kill it was sent."""
    in_inventory: bool = False
    kill: str = ""
    """Why it is being killed; empty while it is wanted."""

    @property
    def is_blank(self) -> bool:
        """Meant for no seat, and wanted."""
        return self.seat is None and not self.kill


def reservation(runner: RunnerBook, term: int) -> Reserve:
    """The order to count for a runner what its seat takes."""
    return Reserve(
        runner_id=runner.id,
        incarnation=runner.incarnation,
        memory_bytes=runner.memory_bytes,
        term=term,
    )


class TaskBook(msgspec.Struct, frozen=True, kw_only=True):
    """A task in the ledger; the ledger owns its end."""

    task: Task
    runner: RunnerId
    by_hand: bool = False
    """A person's: nothing that is decided rests on it."""
    state: TaskState = TaskState.PENDING
    reason: str = ""
    progress: float = 0.0
    sent_at: float
    moved_at: float
    """Of the last change of state or progress; for the end, when it ended."""
    ordered_at: float
    contradicted: bool = False
    """A late report said otherwise; it was logged and changes nothing."""

    @property
    def id(self) -> TaskId:
        return self.task.task_id

    @property
    def kind(self) -> TaskKind:
        return TASK_KINDS[type(self.task)]


class Book:
    """All of it. `decide` reads it; only `act` writes it."""

    def __init__(self, cluster_id: str, term: int) -> None:
        self.cluster_id = cluster_id
        self.term = term
        self.instances: dict[InstanceId, InstanceBook] = {}
        self.runners: dict[RunnerId, RunnerBook] = {}
        self.tasks: dict[TaskId, TaskBook] = {}
        self.nodes: dict[NodeName, str] = {}
        self.drained: set[NodeName] = set()
        """Nodes that people want to be empty; as in the store."""
        self.draining: frozenset[NodeName] = frozenset()
        """Nodes that are to be empty, as it was said last."""
        self.blank_patience: dict[NodeName, Patience] = {}
        self.introduced: tuple[dict[NodeName, ProbeOffer], float] = ({}, 0.0)
        """The nodes that were last told of each other, and when."""
        self.lines_sent: dict[RunnerId, tuple[Line, float]] = {}
        self.task_counts: Counter[str] = Counter()
        """Tasks that ended in this term, by `kind/state`."""
        self.names = 0
        """Names given in this term: runners, tasks."""
        self.epochs = 0
        """The newest n of this term."""
