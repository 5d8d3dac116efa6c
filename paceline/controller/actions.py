"""What `decide` can ask of `act`. Every action says in a sentence what it does and why; the
sentence is the event log and the oracle of the tests. Quiet actions repeat or refine what an
earlier sentence said already, and are not logged."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from paceline.lifecycle import InstanceEvent
from paceline.types.control import Kill, Launch, Line, Peers, Reserve
from paceline.types.ids import Epoch, InstanceId, NodeName, RunnerId, TaskId
from paceline.types.instance import Placement
from paceline.types.links import ProbeOffer
from paceline.types.states import TaskState
from paceline.types.tasks import Task


class Action(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    sentence: str
    quiet: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        return str(self.__struct_config__.tag)


# --- what was noticed ----------------------------------------------------------------------------


class NodeMoved(Action, frozen=True, kw_only=True, tag="node"):
    node: NodeName
    state: str


class Draining(Action, frozen=True, kw_only=True, tag="drain"):
    """These nodes, and no others, are to be empty."""

    nodes: frozenset[NodeName]


class RunnerShown(Action, frozen=True, kw_only=True, tag="runner_shown"):
    """It is in its node's inventory: from now on, not being there means gone."""

    quiet = True
    runner: RunnerId


class RunnerGone(Action, frozen=True, kw_only=True, tag="runner_gone"):
    runner: RunnerId
    code: int | None = None
    """Of its exit, negative for a signal; None where nobody saw it."""
    last_words: tuple[str, ...] = ()
    """The last lines that it said."""


class TaskMoved(Action, frozen=True, kw_only=True, tag="task_moved"):
    quiet = True
    task_id: TaskId
    state: TaskState
    reason: str
    progress: float


class TaskEnded(TaskMoved, frozen=True, kw_only=True, tag="task_ended"):
    quiet = False


class TaskContradicted(Action, frozen=True, kw_only=True, tag="late_report"):
    task_id: TaskId


class TasksCollected(Action, frozen=True, kw_only=True, tag="tasks_collected"):
    quiet = True
    task_ids: tuple[TaskId, ...]


# --- what becomes of an instance -----------------------------------------------------------------


class OfInstance(Action, frozen=True, kw_only=True, tag=True):
    instance: InstanceId


class Pull(OfInstance, frozen=True, kw_only=True, tag="pull"):
    model: str


class Place(OfInstance, frozen=True, kw_only=True, tag="placed"):
    """Gives the instance these seats. `runners` sit there already, by rank."""

    placement: Placement
    runners: tuple[RunnerId | None, ...]
    moves: bool = False
    """From seats that could go on: the line that stands serves until the next one is ready."""


class Adopt(OfInstance, frozen=True, kw_only=True, tag="adopted"):
    """Takes over a line of runners that an earlier controller made; `epoch` if it stands."""

    placement: Placement
    runners: tuple[RunnerId, ...]
    incarnations: tuple[str, ...]
    """Of each rank's node."""
    epoch: Epoch | None


class Wait(OfInstance, frozen=True, kw_only=True, tag="waiting"):
    reasons: tuple[str, ...]
    asked: object
    """What the planner was asked; it is asked again when this changes."""


class Stay(OfInstance, frozen=True, kw_only=True, tag="stays"):
    """It cannot leave a node that is to be empty, and goes on there."""

    reasons: tuple[str, ...]
    asked: object


class AskAgain(OfInstance, frozen=True, kw_only=True, tag="ask_again"):
    """The planner was asked something else, with the same answer as before."""

    quiet = True
    asked: object


class Move(OfInstance, frozen=True, kw_only=True, tag="instance"):
    event: InstanceEvent


class OpenLine(OfInstance, frozen=True, kw_only=True, tag="line_opened"):
    epoch: Epoch


class BreakLine(OfInstance, frozen=True, kw_only=True, tag="line_broken"):
    why: str


class Heal(OfInstance, frozen=True, kw_only=True, tag="healthy"):
    """Earlier failures are forgotten."""

    quiet = True


class Explain(OfInstance, frozen=True, kw_only=True, tag="explained"):
    quiet = True
    reasons: tuple[str, ...]


class Stumble(OfInstance, frozen=True, kw_only=True, tag="internal_error"):
    """Deciding about this instance raised; the others go on."""


class Forget(OfInstance, frozen=True, kw_only=True, tag="deleted"):
    """Nothing of it is left: the wish goes too."""


# --- orders to others ----------------------------------------------------------------------------


class OfRunner(Action, frozen=True, kw_only=True, tag=True):
    runner: RunnerId
    node: NodeName
    incarnation: str
    """Of the node."""
    memory_bytes: int


class LaunchRunner(OfRunner, frozen=True, kw_only=True, tag="launch"):
    instance: InstanceId
    rank: int


class Take(OfRunner, frozen=True, kw_only=True, tag="take"):
    """Puts a living runner on a seat."""

    instance: InstanceId
    rank: int


class LaunchBlank(OfRunner, frozen=True, kw_only=True, tag="launch_blank"):
    """One without a seat, to stand ready."""


class KeepBlank(OfRunner, frozen=True, kw_only=True, tag="keep_blank"):
    """A blank runner that an earlier controller launched."""


class Order(OfInstance, frozen=True, kw_only=True, tag="order"):
    runner: RunnerId
    task: Task


class SendLine(OfInstance, frozen=True, kw_only=True, tag="line"):
    quiet = True
    runner: RunnerId
    line: Line


class KillRunner(OfRunner, frozen=True, kw_only=True, tag="kill"):
    grace_s: float
    why: str


class Introduce(Action, frozen=True, kw_only=True, tag="introduce"):
    """Tells every node whom to measure and whom to admit."""

    quiet = True
    offers: dict[NodeName, ProbeOffer]
    peers: dict[NodeName, Peers]


class OrderAgain(Action, frozen=True, kw_only=True, tag="order_again"):
    quiet = True
    task_id: TaskId


class TellAgain(Action, frozen=True, kw_only=True, tag="tell_again"):
    """To an agent, about a runner: an order that shows no effect yet."""

    quiet = True
    runner: RunnerId
    order: Launch | Reserve | Kill


class Decision(msgspec.Struct, frozen=True):
    actions: tuple[Action, ...]
    next_wake: float
    """When to decide again if nothing is heard before."""
    names: int
    """The last number given to a new runner or task."""
    is_part: bool = False
    """There is more to plan, when what has come in meanwhile has been heard."""
