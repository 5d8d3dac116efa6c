"""The eight invariants of the design, each with one checker that is told of what happens and raises
`Broken` at the moment at which it does not hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from paceline.controller import actions as do
from paceline.controller.book import Book, RunnerBook, TaskBook
from paceline.controller.nodes import NodeState
from paceline.types.control import Event, Routes
from paceline.types.ids import InstanceId, RunnerId, TaskId
from paceline.types.states import InstanceState, RunnerState, TaskKind
from paceline.types.tasks import Load

if TYPE_CHECKING:
    from tests.simulation.controllers import SimController
    from tests.simulation.gateway import Client, SimGateway
    from tests.simulation.node import SimNode
    from tests.simulation.runner import Cause, SimRunner
    from tests.simulation.world import World

Tell = Callable[..., None]

CLEARED_WITHIN_S = 30.0
"""After a node can be reached again, nothing stray is on it."""

BY_HAND = "hand-"
"""What the names of tasks begin with that no controller decided on."""

WINDOW_S = 10.0
MOST_PER_SEAT = 7
"""Launches for one seat, or failures of one line, in a window: at once, then after 0.5, 1, 2 and
4 s, and what the window's edges add."""


class Broken(BaseException):
    """An invariant did not hold. Not an Exception: the controller must not survive it."""


class Invariant:
    """What a checker may be told. `number` is the design's."""

    number = 0

    def __init__(self, world: World) -> None:
        self.world = world

    def took_office(self, controller: SimController) -> None: ...
    def acted(self, controller: SimController, action: do.Action) -> None: ...
    def logged(self, controller: SimController, event: Event) -> None: ...
    def turned(self, controller: SimController) -> None: ...
    def started(self, runner: SimRunner) -> None: ...
    def ended(self, runner: SimRunner, cause: Cause) -> None: ...
    def delivered(self, runner: SimRunner, task: Any) -> None: ...
    def began(self, runner: SimRunner, task: Any) -> None: ...
    def ordered(self, node: SimNode, order: Any) -> None: ...
    def routed(self, gateway: SimGateway, routes: Routes) -> None: ...
    def read(self, client: Client) -> None: ...
    def calmed(self) -> None: ...
    def rested(self) -> None: ...

    def demand(self, holds: bool, why: str) -> None:
        if not holds:
            raise Broken(f"invariant {self.number} ({type(self).__name__}): {why}")


class OnlyAnAcceptedStopEndsARunner(Invariant):
    """Of tasks. A fault may too, and so may an order to kill that was given with a sentence."""

    number = 1

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._sentenced: set[str] = set()

    def logged(self, controller: SimController, event: Event) -> None:
        if event.kind == "kill":
            self._sentenced.add(event.facts["runner"])

    def ended(self, runner: SimRunner, cause: Cause) -> None:
        if cause.name == "STOPPED":
            accepted = runner.state is RunnerState.STOPPED
            self.demand(accepted, f"{runner.name} stopped in state {runner.state}")
        elif cause.name == "KILLED":
            why = f"{runner.name} was killed without a sentence"
            self.demand(runner.name in self._sentenced, why)


class _Tasks(dict[TaskId, TaskBook]):
    """A ledger that refuses a second end, and knows what has not ended."""

    def __init__(self, invariant: Invariant) -> None:
        super().__init__()
        self._invariant = invariant
        self.open: dict[TaskId, TaskBook] = {}

    def __setitem__(self, name: TaskId, entry: TaskBook) -> None:
        known = self.get(name)
        if known is not None and known.state.is_terminal:
            same = known.state is entry.state and known.reason == entry.reason
            why = f"{name} ended {known.state}, and then became {entry.state}"
            self._invariant.demand(same, why)
        if entry.state.is_terminal:
            self.open.pop(name, None)
        else:
            self.open[name] = entry
        super().__setitem__(name, entry)

    def pop(self, name: TaskId, default: Any = None) -> Any:
        self.open.pop(name, None)
        return super().pop(name, default)


class EveryTaskEndsOnceInTime(Invariant):
    number = 2
    _BY_PROGRESS = (TaskKind.FETCH, TaskKind.LOAD)

    def took_office(self, controller: SimController) -> None:
        controller.controller.book.tasks = _Tasks(self)

    def turned(self, controller: SimController) -> None:
        tasks = controller.controller.book.tasks
        assert isinstance(tasks, _Tasks)
        for entry in tasks.open.values():
            since = entry.moved_at if entry.kind in self._BY_PROGRESS else entry.ordered_at
            late = self.world.now - since - entry.task.deadline_s - self.world.timing.margin_s
            self.demand(late < 1e-6, f"{entry.id} is {entry.state}, {late:.2f} s past its deadline")

    def rested(self) -> None:
        tasks = self.world.controller.book.tasks
        assert isinstance(tasks, _Tasks)
        self.demand(not tasks.open, f"at rest, and {', '.join(tasks.open)} are not ended")


class AnOlderEpochChangesNothing(Invariant):
    """Neither for a runner, nor for a node, nor for a gateway."""

    number = 3

    def delivered(self, runner: SimRunner, task: Any) -> None:
        before, known = self._standing(runner), runner.epoch
        runner.deliver(task)
        if known is None:
            return
        if task.epoch < known:
            why = f"{task.task_id} of epoch {task.epoch} changed {runner.name} of epoch {known}"
            self.demand(self._standing(runner) == before, why)
        newest = runner.epoch
        self.demand(newest is not None and newest >= known, f"{runner.name} went back to {newest}")

    def ordered(self, node: SimNode, order: Any) -> None:
        before, known = self._roster(node), node.roster.term
        node.obey(order)
        if order.term < known:
            why = f"{order} changed {node.name}, which heeds term {known}"
            self.demand(self._roster(node) == before, why)
        self.demand(node.roster.term >= known, f"{node.name} went back to {node.roster.term}")

    def routed(self, gateway: SimGateway, routes: Routes) -> None:
        before = gateway.routes
        gateway.heed(routes)
        if before is not None and routes.term < before.term:
            why = f"routes of term {routes.term} changed a gateway of term {before.term}"
            self.demand(gateway.routes is before, why)

    def _roster(self, node: SimNode) -> tuple[object, ...]:
        ending = [runner.name for runner in node.runners.values() if runner.is_ending]
        roster = node.roster
        return (roster.processes, roster.exits, roster.term, ending, tuple(node.soundings))

    def _standing(self, runner: SimRunner) -> tuple[object, ...]:
        return (runner.state, runner.epoch, runner.seat_task, runner.rank, runner.alive)


class EachTokenOnceInOrder(Invariant):
    number = 4

    def read(self, client: Client) -> None:
        expected = client.expected
        got = client.got
        why = f"{client.name} read {got}, expected {expected}"
        self.demand(got == expected[: len(got)], why)
        self.demand(client.text == "".join(chr(0x100 + token) for token in got), why)
        if client.ended:
            self.demand(len(got) == len(expected), f"{client.name} ended early: {why}")

    def rested(self) -> None:
        routes = self.world.routes
        served = {route.model for route in routes.routes} if routes else set()
        for client in self.world.gateway.clients:
            if client.live.model in served:
                self.demand(client.ended, f"{client.name} has not ended: {len(client.got)} tokens")


class _Runners(dict[RunnerId, RunnerBook]):
    """A book of runners that tells when one is struck out."""

    def __init__(self, gone: Any) -> None:
        super().__init__()
        self._gone = gone

    def pop(self, name: RunnerId, *default: Any) -> Any:
        if name in self:
            self._gone(self[name])
        return super().pop(name, *default)


class MemoryIsNeverOversold(Invariant):
    number = 5

    def took_office(self, controller: SimController) -> None:
        book = controller.controller.book
        book.runners = _Runners(lambda runner: self._struck_out(controller, runner))

    def started(self, runner: SimRunner) -> None:
        self._check(runner.node)

    def ordered(self, node: SimNode, order: Any) -> None:
        self._check(node)

    def began(self, runner: SimRunner, task: Any) -> None:
        """A shard is loaded only where the node counts all that it takes."""
        if isinstance(task, Load) and not task.task_id.startswith(BY_HAND):
            counted = {each.runner_id: each.memory_bytes for each in runner.node.roster.processes}
            there = counted.get(runner.name, 0)
            why = f"{runner.name} loads {task.memory_bytes} bytes, {there} are reserved"
            self.demand(task.memory_bytes <= there, why)

    def _check(self, node: SimNode) -> None:
        reserved, offered = node.roster.reserved_bytes, node.memory_bytes
        self.demand(reserved <= offered, f"{node.name} holds {reserved} of {offered} bytes")

    def _struck_out(self, controller: SimController, runner: RunnerBook) -> None:
        """Who is not counted any more is not there, or on a node that is given up."""
        there = self.world.runner(runner.id)
        if there is None:
            return
        lost = controller.controller.book.nodes.get(runner.node) == NodeState.LOST
        self.demand(lost, f"{runner.id} lives on {runner.node} and is not counted any more")


class _Taken(NamedTuple):
    instance: InstanceId
    by: SimController
    at: float


class NothingOutlivesItsOwner(Invariant):
    number = 6

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._owner: dict[RunnerId, _Taken] = {}
        self._in_office_since: dict[SimController, float] = {}
        self._stray_since: dict[RunnerId, float] = {}
        self._calm, self._look_at = False, 0.0

    def took_office(self, controller: SimController) -> None:
        self._in_office_since[controller] = self.world.now

    def acted(self, controller: SimController, action: do.Action) -> None:
        if isinstance(action, do.LaunchRunner | do.Take):
            self._owner[action.runner] = _Taken(action.instance, controller, self.world.now)
        elif isinstance(action, do.LaunchBlank | do.KeepBlank):
            self._owner.pop(action.runner, None)
        elif isinstance(action, do.Forget):
            nodes = controller.controller.book.nodes
            left = [
                runner.name
                for runner in self.world.runners()
                if self._took(controller, runner.name, action.instance)
                and nodes.get(runner.node.name, NodeState.LOST) != NodeState.LOST
                and runner.node.host.runs
            ]
            self.demand(not left, f"{action.instance} is forgotten, and {left} live")

    def _took(self, controller: SimController, runner: RunnerId, instance: InstanceId) -> bool:
        """Whether the instance owns the runner as far as this controller can know: not of what
        another, who is overthrown, has done since. That is a stray, and has its time to go."""
        taken = self._owner.get(runner)
        if taken is None or taken.instance != instance:
            return False
        since = self._in_office_since.get(controller, 0.0)
        return taken.by is controller or taken.at < since

    def calmed(self) -> None:
        self._calm = True

    def turned(self, controller: SimController) -> None:
        now = self.world.now
        if not self._calm or now < self._look_at:
            return
        self._look_at = now + 1.0
        self._stray_since = {name: self._stray_since.get(name, now) for name in strays(controller)}
        for name, since in self._stray_since.items():
            self.demand(
                now - since <= CLEARED_WITHIN_S, f"{name} is on no seat for {now - since:.1f} s"
            )

    def rested(self) -> None:
        (controller,) = self.world.controllers
        book = controller.controller.book
        left = strays(controller)
        self.demand(not left, f"at rest, and {left} live on no seat")
        ghosts = set(book.runners) - {runner.name for runner in self.world.runners()}
        self.demand(not ghosts, f"at rest, and the book has {ghosts}, which do not live")
        wishes = {wish.id for wish in self.world.store.wishes()}
        self.demand(
            set(book.instances) == wishes, f"the book has {set(book.instances)}, the store {wishes}"
        )
        routed = {route.instance for route in self.world.routes.routes} if self.world.routes else ()
        self.demand(set(routed) <= wishes, f"routes lead to {set(routed)}, wanted are {wishes}")


def strays(controller: SimController) -> list[RunnerId]:
    """Who sits on no seat, stands ready as no blank runner, and holds nothing that its instance
    may still want."""
    book = controller.controller.book
    seated = {seat.runner for inst in book.instances.values() for seat in inst.seats}
    found, blanks = [], Counter[str]()
    for runner in controller.world.runners():
        known = book.runners.get(runner.name)
        if known is not None and known.is_blank:
            blanks[runner.node.name] += runner.state in (None, RunnerState.IDLE)
            if runner.state in (None, RunnerState.IDLE) and (
                blanks[runner.node.name] <= runner.node.blanks
            ):
                continue
        elif runner.name in seated or _is_wanted_by(book, runner):
            continue
        found.append(runner.name)
    return found


def _is_wanted_by(book: Book, runner: SimRunner) -> bool:
    """By an instance that has a seat to give, or whose streams are on a line that it has given up
    and on no other yet."""
    inst = book.instances.get(runner.seat_task.seat.instance) if runner.seat_task else None
    if inst is None or inst.wish.deleted or not runner.pumps:
        return False
    if not inst.seats or any(seat.runner is None for seat in inst.seats):
        return True
    serves = inst.state is InstanceState.RECOVERING and runner.epoch == inst.retired
    return serves and runner.epoch is not None


class EveryDecisionIsASentence(Invariant):
    """One sentence in the log for each action that is not quiet, and it names what it is about."""

    number = 7
    _NAMES = ("node", "runner", "instance", "task_id")
    _BUGS = ("restless", "internal_error")

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._last: Event | None = None

    def logged(self, controller: SimController, event: Event) -> None:
        self._last = event
        self.demand(event.kind not in self._BUGS, event.sentence)

    def acted(self, controller: SimController, action: do.Action) -> None:
        if action.quiet:
            return
        said, self._last = self._last, None
        is_said = said is not None and (said.kind, said.sentence) == (action.kind, action.sentence)
        self.demand(is_said, f"{action} was not said: {said}")
        for name in self._NAMES:
            about = getattr(action, name, None)
            if about is not None:
                why = f"{action.kind} does not name {about}: {action.sentence}"
                self.demand(str(about) in action.sentence, why)


class FlappingIsDamped(Invariant):
    """Whatever flaps, a seat is filled and a line is opened only so often."""

    number = 8

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._times: dict[object, list[float]] = defaultdict(list)

    def took_office(self, controller: SimController) -> None:
        self._times.clear()  # a new controller knows of no earlier failures

    def acted(self, controller: SimController, action: do.Action) -> None:
        if isinstance(action, do.LaunchRunner):
            self._count((action.instance, action.rank), MOST_PER_SEAT)
        elif isinstance(action, do.OpenLine):
            seats = len(controller.controller.book.instances[action.instance].seats)
            self._count(action.instance, MOST_PER_SEAT * (1 + seats))

    def _count(self, what: object, most: int) -> None:
        now = self.world.now
        times = self._times[what] = [at for at in self._times[what] if now - at < WINDOW_S]
        times.append(now)
        self.demand(len(times) <= most, f"{what} was begun {len(times)} times in {WINDOW_S:.0f} s")


class Watch:
    """Tells each checker what it wants to know of, and nothing else."""

    took_office: Tell
    acted: Tell
    logged: Tell
    turned: Tell
    started: Tell
    ended: Tell
    delivered: Tell
    began: Tell
    ordered: Tell
    routed: Tell
    read: Tell
    calmed: Tell
    rested: Tell

    def __init__(self, world: World) -> None:
        self.checkers = checkers = [checker(world) for checker in INVARIANTS]
        for name in Watch.__annotations__:
            heard = [
                getattr(checker, name)
                for checker in checkers
                if getattr(type(checker), name) is not getattr(Invariant, name)
            ]
            setattr(self, name, _to_all(heard))


def _to_all(heard: list[Tell]) -> Tell:
    if len(heard) == 1:
        return heard[0]

    def tell(*about: Any) -> None:
        for each in heard:
            each(*about)

    return tell


INVARIANTS: tuple[type[Invariant], ...] = (
    OnlyAnAcceptedStopEndsARunner,
    EveryTaskEndsOnceInTime,
    AnOlderEpochChangesNothing,
    EachTokenOnceInOrder,
    MemoryIsNeverOversold,
    NothingOutlivesItsOwner,
    EveryDecisionIsASentence,
    FlappingIsDamped,
)
