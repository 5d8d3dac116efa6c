"""What people ask of the controller, by verb: bodies are checked, errors are typed, and nothing
here decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec.structs import replace

from paceline.checkpoint.pull import resolve
from paceline.controller import joining
from paceline.controller.book import Book, InstanceBook
from paceline.controller.events import RING, EventLog
from paceline.controller.facts import Facts
from paceline.controller.ledger import Ledger
from paceline.controller.models import Models
from paceline.controller.nodes import NodeState, drained
from paceline.controller.offers import budgets, links
from paceline.controller.operator import TaskBody, hand_over, task_view
from paceline.controller.store import Store
from paceline.controller.views import (
    instance_view,
    instance_views,
    node_views,
    runner_facts,
    sentences,
)
from paceline.planner import NodeBudget, place_manually, plan, preview, resolve_dtype
from paceline.process.versions import versions
from paceline.types.control import Answer, Ask
from paceline.types.errors import InvalidRequest, NotFound, PacelineError
from paceline.types.ids import InstanceId, NodeName, TaskId, fresh_id
from paceline.types.instance import InstanceWish, ManualSeat, Preview, TaskView
from paceline.types.join import JOIN, House, JoinRequest, Welcome, told
from paceline.types.links import Links
from paceline.types.model import ModelFacts
from paceline.types.policy import DEFAULT_TIERS, Tier
from paceline.types.states import Objective
from paceline.types.timing import DEFAULT_TIMING, Timing

MAX_INSTANCES = 256

Count = Annotated[int, msgspec.Meta(ge=1)]


class CreateBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    min_nodes: Count = 1
    max_nodes: Count | None = None
    objective: Objective = Objective.LATENCY
    dtype: str = "auto"
    kv_tokens: Count | None = None
    seats: tuple[ManualSeat, ...] = ()


class IdBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: str


class DrainBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    node: str
    drained: bool = True


class EventsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    since: int = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=RING)] = RING


class NoBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing may be given."""


Body = TypeVar("Body")


class Desk:
    """Answers asks. `facts` gives the newest snapshot, `clock` its time."""

    def __init__(
        self,
        book: Book,
        store: Store,
        models: Models,
        events: EventLog,
        facts: Callable[[], Facts],
        clock: Callable[[], float],
        timing: Timing = DEFAULT_TIMING,
        tiers: Sequence[Tier] = DEFAULT_TIERS,
        house: House | None = None,
    ) -> None:
        self._house = house or House(versions=versions())
        self._book = book
        self._store = store
        self._models = models
        self._events = events
        self._facts = facts
        self._clock = clock
        self._timing = timing
        self._tiers = tiers
        self._welcomed = joining.Welcomed()
        self._verbs: Mapping[str, tuple[type, Callable[[Any], Any]]] = {
            "instances.create": (CreateBody, self._create),
            "instances.list": (NoBody, self._list),
            "instances.get": (IdBody, self._get),
            "instances.delete": (IdBody, self._delete),
            "plan": (CreateBody, self._plan),
            "nodes.list": (NoBody, self._nodes),
            "nodes.drain": (DrainBody, self._drain),
            "runners.list": (NoBody, self._runners),
            "tasks.create": (TaskBody, self._hand_over),
            "tasks.get": (IdBody, self._task),
            "events": (EventsBody, self._events_since),
            "status": (NoBody, self._status),
            JOIN: (JoinRequest, self._join),
        }

    def answer(self, ask: Ask) -> Answer:
        """Never raises: what goes wrong is in the answer."""
        try:
            body = msgspec.to_builtins(self._do(ask))
        except PacelineError as error:
            return Answer(number=ask.number, error=error.code, body={"message": str(error)})
        except Exception as error:  # a bug in one answer is not the controller's end
            sentence = f"answering {ask.verb!r} failed: {type(error).__name__}: {error}"
            self._events.add("internal_error", sentence)
            return Answer(number=ask.number, error=PacelineError.code, body={"message": sentence})
        return Answer(number=ask.number, body=body)

    def _do(self, ask: Ask) -> Any:
        if ask.verb not in self._verbs:
            known = ", ".join(self._verbs)
            raise InvalidRequest(f"unknown verb {ask.verb!r}; known are {known}")
        kind, handler = self._verbs[ask.verb]
        return handler(_checked(ask.body, kind))

    # --- instances -------------------------------------------------------------------------------

    def _create(self, body: CreateBody) -> Any:
        wish = self._wish(body, InstanceId(fresh_id("i")))
        if len(self._book.instances) >= MAX_INSTANCES:
            raise InvalidRequest(f"there are {MAX_INSTANCES} instances; delete one first")
        self._store.put(wish)
        inst = InstanceBook(wish=wish)
        self._book.instances[wish.id] = inst
        self._events.add("wanted", f"{wish.id} is wanted: {wish.model}", msgspec.to_builtins(wish))
        return instance_view(self._facts(), self._book, inst)

    def _wish(self, body: CreateBody, name: InstanceId) -> InstanceWish:
        """Checked as far as it can be now. Raises NotFound or InvalidRequest."""
        resolve(body.model, self._models.store)
        resolve_dtype(body.dtype)
        if body.max_nodes is not None and body.max_nodes < body.min_nodes:
            raise InvalidRequest(
                f"max_nodes ({body.max_nodes}) must not be less than min_nodes ({body.min_nodes})"
            )
        wish = InstanceWish(
            id=name,
            model=body.model,
            min_nodes=body.min_nodes,
            max_nodes=body.max_nodes,
            objective=body.objective,
            dtype=body.dtype,
            kv_tokens=body.kv_tokens,
            seats=body.seats,
        )
        model = self._models.facts(body.model)
        if model is not None:
            self._check(model, wish)
        elif wish.seats:
            raise InvalidRequest(f"{body.model} is not here yet: pull it, then place it by hand")
        return wish

    def _check(self, model: ModelFacts, wish: InstanceWish) -> None:
        """Raises InvalidRequest for what no cluster could ever meet, and for a placement by hand
        that this one cannot meet now."""
        if wish.seats:
            offered, ways = self._market(wish)
            place_manually(model, offered, wish, wish.seats, links=ways)
        else:
            plan(model, (), wish)

    def _list(self, _: NoBody) -> Any:
        return instance_views(self._facts(), self._book)

    def _get(self, body: IdBody) -> Any:
        return instance_view(self._facts(), self._book, self._found(body.id))

    def _delete(self, body: IdBody) -> Any:
        inst = self._found(body.id)
        if not inst.wish.deleted:
            wish = replace(inst.wish, deleted=True)
            self._store.put(wish)
            inst = self._book.instances[inst.id] = replace(inst, wish=wish)
            self._events.add("unwanted", f"{inst.id} ({wish.model}) is no longer wanted")
        return instance_view(self._facts(), self._book, inst)

    def _found(self, instance: str) -> InstanceBook:
        inst = self._book.instances.get(InstanceId(instance))
        if inst is None:
            there = ", ".join(self._book.instances) or "none"
            raise NotFound(f"no instance {instance!r}; there are: {there}")
        return inst

    # --- the rest --------------------------------------------------------------------------------

    def _plan(self, body: CreateBody) -> Preview:
        wish = self._wish(body, InstanceId("plan"))
        model = self._models.facts(body.model)
        if model is None:
            reason = f"{body.model} is not on this machine yet; `paceline pull {body.model}` first"
            return Preview(
                model=body.model, objective=wish.objective, placement=None, reasons=(reason,)
            )
        offered, ways = self._market(wish)
        if not wish.seats:
            return preview(model, offered, wish, links=ways, tiers=self._tiers)
        placed = place_manually(model, offered, wish, wish.seats, links=ways)
        return Preview(
            model=model.name,
            objective=wish.objective,
            placement=placed,
            reasons=("as it was written",),
            disk_bytes=model.disk_bytes,
        )

    def _market(self, wish: InstanceWish) -> tuple[tuple[NodeBudget, ...], Links]:
        facts = self._facts()
        ready = {n for n in facts.nodes if self._book.nodes.get(n) == NodeState.READY}
        ready -= drained(facts, self._book)
        ledger = Ledger(facts, self._book)
        return budgets(facts, ledger, InstanceBook(wish=wish), ready), links(facts, ready)

    def _nodes(self, _: NoBody) -> Any:
        return node_views(self._facts(), self._book, self._clock())

    def _drain(self, body: DrainBody) -> Any:
        facts, node = self._facts(), NodeName(body.node)
        if node not in facts.nodes and node not in self._book.drained:
            there = ", ".join(sorted(facts.nodes)) or "none"
            raise NotFound(f"no node {node!r}; there are: {there}")
        self._store.drain(node, body.drained)
        change = self._book.drained.add if body.drained else self._book.drained.discard
        change(node)
        found = node_views(facts, self._book, self._clock())
        return next((view for view in found if view.name == node), None)

    def _runners(self, _: NoBody) -> Any:
        return runner_facts(self._facts(), self._book)

    def _hand_over(self, body: TaskBody) -> Any:
        given = hand_over(self._book, self._facts(), body, self._clock(), self._timing)
        if isinstance(given, TaskView):
            sentence = f"{given.kind!r} for {given.runner} {given.reason} ({given.id})"
            self._events.add("order_by_hand", sentence)
            return given
        if given.id not in self._book.tasks:
            self._book.tasks[given.id] = given
            sentence = f"{given.runner} is given {given.kind} of epoch {given.task.epoch} by hand"
            self._events.add("order_by_hand", f"{sentence} ({given.id})")
        return task_view(given)

    def _task(self, body: IdBody) -> Any:
        entry = self._book.tasks.get(TaskId(body.id))
        if entry is None:
            raise NotFound(f"no task {body.id!r}: it never was, or ended a while ago")
        return task_view(entry)

    def _join(self, body: JoinRequest) -> Welcome:
        facts, now = self._facts(), self._clock()
        joining.check(body, self._house.versions, facts, now, self._timing)
        self._welcomed.check(body, facts, now)
        self._welcomed.give(body, now)
        self._events.add("joins", f"{body.node} joins, with {told(body.versions)}")
        return Welcome(
            cluster_id=self._book.cluster_id,
            timing=self._timing,
            versions=self._house.versions,
            ray_address=self._house.ray_address,
            api_key=self._house.api_key,
        )

    def _events_since(self, body: EventsBody) -> Any:
        return self._events.since(body.since, body.limit)

    def _status(self, _: NoBody) -> dict[str, Any]:
        facts, now = self._facts(), self._clock()
        return {
            "cluster_id": self._book.cluster_id,
            "term": self._book.term,
            "nodes": node_views(facts, self._book, now),
            "instances": instance_views(facts, self._book),
            "sentences": sentences(facts, self._book, now),
        }


def _checked(body: dict[str, Any], kind: type[Body]) -> Body:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from error
