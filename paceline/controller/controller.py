"""The controller without its sockets and clocks: messages in, messages out, at given times.

The process runs it in real time; the simulation runs the same under virtual time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from paceline.cluster.base import Cluster
from paceline.controller.act import Actor, Post
from paceline.controller.actions import Action
from paceline.controller.api import Desk
from paceline.controller.book import Book, InstanceBook
from paceline.controller.context import about
from paceline.controller.decide import decide
from paceline.controller.events import EventLog
from paceline.controller.facts import Facts, Observer
from paceline.controller.models import Models
from paceline.controller.record import RECORDS
from paceline.controller.routing import routes
from paceline.controller.store import Store
from paceline.process.logs import get_logger
from paceline.transport.authenticator import Authenticator
from paceline.transport.sparing import Sparing
from paceline.types.control import Answer, Ask, NodeBeat, Routes, ToController
from paceline.types.errors import Unavailable
from paceline.types.join import House
from paceline.types.policy import DEFAULT_TIERS, Tier
from paceline.types.timing import DEFAULT_TIMING, Timing

MAX_ROUNDS = 64
"""Of deciding in one step: news, then what follows from it, and so on."""

MAX_ANSWERS = 512
ROUTES_EVERY_S = 0.5


log = get_logger(__name__)


class Controller:
    def __init__(
        self,
        book: Book,
        store: Store,
        models: Models,
        events: EventLog,
        cluster: Cluster,
        post: Post,
        clock: Callable[[], float],
        timing: Timing = DEFAULT_TIMING,
        tiers: Sequence[Tier] = DEFAULT_TIERS,
        house: House | None = None,
    ) -> None:
        """`house`: what joiners are told beside what the controller decides itself."""
        self.book = book
        self.events = events
        self._store = store
        self._models = models
        self._post = post
        self._clock = clock
        self._timing = timing
        self._tiers = tiers
        self._observer = Observer(book.cluster_id, clock(), timing)
        self._actor = Actor(book, cluster, post, forget=store.remove, pull=models.pull)
        self._desk = Desk(book, store, models, events, self.facts, clock, timing, tiers, house)
        self._sparing = Sparing(clock)
        self._parts = 0
        """Steps in a row that left some planning to the next."""
        self._answers: OrderedDict[tuple[str, int], Answer] = OrderedDict()
        self._routes: Routes | None = None
        self._routes_at = 0.0
        self._has_ordered = self._has_published = False
        """Nodes and runners, or gateways, may have our term from us."""
        self.deposed = ""
        """Why this controller has no say any more; it is to end."""

    def facts(self) -> Facts:
        wanted = (inst.wish.model for inst in self.book.instances.values())
        models = self._models.look(wanted)
        return self._observer.facts(models, self._clock(), keep=self.book.runners)

    def wake(self) -> None:
        """Call once per loop, before `take`: finds out whether this process itself was stalled."""
        stalled_s = self._observer.tick(self._clock())
        if stalled_s:
            sentence = f"the controller itself stood still for {stalled_s:.1f} s; it listens again"
            self.events.add("stalled", sentence)

    def take(self, peer: str, message: ToController) -> None:
        """A message from a peer. An ask is answered at once, a repeated one with the same words."""
        if isinstance(message, Ask):
            self._post(peer, self._answer(peer, message))
        elif not self._observer.take(message, self._clock()) and isinstance(message, NodeBeat):
            self._mind_namesake(message)

    def step(self) -> float:
        """Decides and acts until there is no more to do now, or too much for one step. Returns when
        to look again."""
        now, facts = self._clock(), self.facts()
        self._mind_other_terms(facts)
        next_wake = now
        if self.deposed:
            return now
        for _ in range(MAX_ROUNDS):
            decision = decide(facts, self.book, now, self._timing, self._tiers)
            self.book.names = max(self.book.names, decision.names)
            next_wake = decision.next_wake
            if not decision.actions:
                break
            for action in decision.actions:
                self._act(action, now)
            if decision.is_part:
                break
            facts = self.facts()
        else:
            sentence = f"deciding did not come to rest within {MAX_ROUNDS} rounds; it goes on"
            self.events.add("restless", sentence)
        self._parts = self._parts + 1 if decision.is_part else 0
        if 0 < self._parts <= len(self.book.instances):
            next_wake = now  # after so many everyone has had a turn; what is heard wakes it, too
        self._publish(facts, now)
        return next_wake

    def _mind_namesake(self, refused: NodeBeat) -> None:
        node, living = refused.facts, self._observer.shares_name(refused, self._clock())
        if living is not None and self._sparing.may_say((node.name, node.incarnation)):
            sentence = (
                f"two nodes are named {node.name}: the one on {living.host} (process {living.pid}) "
                f"started later and is heard, the one on {node.host} (process {node.pid}) is not; "
                "end one, and join it under another name"
            )
            self.events.add("namesake", sentence)

    def _mind_other_terms(self, facts: Facts) -> None:
        """Who heeds a newer controller, one that took its term in our store, is not ours any more.
        Who heeds a term that nobody took there (it was lost, or could not be written), or has ours
        from another, would refuse us: take one beyond it."""
        ordered, published = newest_terms(facts)
        term, seen = self.book.term, max(ordered, published)
        is_ours = (ordered < term or self._has_ordered) and (
            published < term or self._has_published
        )
        if seen < term or (seen == term and is_ours):
            return
        if _last_term(self._store) > term:
            self.deposed = f"a newer controller is in office: term {seen} is heeded"
            self.events.add("deposed", f"{self.deposed}; this one, of term {term}, ends")
            return
        self.book.term = take_term(self._store, self.book.cluster_id, least=seen + 1)
        sentence = f"term {seen} is heeded already: this controller takes term {self.book.term}"
        self.events.add("term", sentence)

    def _act(self, action: Action, now: float) -> None:
        if not action.quiet:
            self.events.add(
                action.kind, action.sentence, _facts_of(action), about(action, self.book)
            )
        self._has_ordered |= type(action) not in RECORDS
        try:
            self._actor.act(action, now)
        except Exception as error:  # one action's trouble is never the others'
            sentence = f"acting on {action.kind!r} failed: {type(error).__name__}: {error}"
            self.events.add("internal_error", sentence)

    def _answer(self, peer: str, ask: Ask) -> Answer:
        key = (peer, ask.number)
        if key not in self._answers:
            self._answers[key] = self._desk.answer(ask)
            if len(self._answers) > MAX_ANSWERS:
                self._answers.popitem(last=False)
        return self._answers[key]

    def _publish(self, facts: Facts, now: float) -> None:
        """The whole truth to every gateway, on change and every now and then."""
        strangers = {**self._observer.strangers, "controller": Authenticator.strangers_here()}
        news = routes(facts, self.book, self.events.counts, strangers)
        if news == self._routes and now - self._routes_at < ROUTES_EVERY_S:
            return
        self._routes, self._routes_at = news, now
        for name, seen in facts.gateways.items():
            if facts.silence_s(seen.heard_at, now) < self._timing.lost_s:
                self._has_published = True
                self._post(f"gateway:{name}", news)


def open_book(store: Store, cluster_id: str) -> Book:
    """The book of a new term, with what earlier controllers were asked for. Raises Unavailable
    when the store cannot be read; that it cannot be written stops nothing."""
    book = Book(cluster_id, take_term(store, cluster_id))
    for wish in store.wishes():
        book.instances[wish.id] = InstanceBook(wish=wish, inherited=True)
    book.drained = store.drained()
    return book


def take_term(store: Store, cluster_id: str, least: int = 0) -> int:
    """A new term. One that cannot be written down is found out by the epochs of what lives, and
    risen above, after the next start."""
    try:
        return store.begin_term(cluster_id, least)
    except Unavailable as error:
        log.error("the new term cannot be written; going on without", why=str(error))
        return max(store.term() + 1, least)


def newest_terms(facts: Facts) -> tuple[int, int]:
    """Whose orders anyone heeds, and whose routes; 0 where nobody was given any."""
    epochs = (seen.facts.epoch for seen in facts.runners.values())
    ordered = [epoch.term for epoch in epochs if epoch is not None]
    ordered += [node.facts.term for node in facts.nodes.values()]
    published = (gateway.facts.term for gateway in facts.gateways.values())
    return max(ordered, default=0), max(published, default=0)


def _last_term(store: Store) -> int:
    """As far as it can be read."""
    try:
        return store.term()
    except Unavailable:
        return 0


def _facts_of(action: Action) -> dict[str, Any]:
    said: dict[str, Any] = msgspec.to_builtins(action)
    return {key: value for key, value in said.items() if key not in ("sentence", "type")}
