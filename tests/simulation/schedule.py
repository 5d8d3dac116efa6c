"""One schedule: a seed becomes a cluster, instances, streams and faults; then they end, and all
must come to peace."""

from __future__ import annotations

from collections import Counter
from random import Random

import msgspec

from paceline.controller.blanks import FIRST_ANSWERS_S
from paceline.controller.book import InstanceBook
from paceline.controller.ledger import Ledger
from paceline.controller.nodes import NodeState
from paceline.controller.offers import budgets, links
from paceline.planner import plan
from paceline.types.instance import NoPlacement
from tests.simulation.faults import FAULTS, Faults, want_any
from tests.simulation.invariants import Broken, strays
from tests.simulation.world import World

FAULTS_S = (2.0, 16.0)
STRIKES = (2, 14)
SETTLE_S = 240.0
"""Virtual seconds after the last fault within which everything that can be ready is. The longest
patience is that with a load which makes no progress, a minute; the rest is backoff."""
NOTICE_S = 5.0
"""What was struck last shows by then."""
PEACE_S = 0.75
REST_S = 12.0
"""Longer than the patience with spare runners and with health."""
RESTING_PACE_S = 0.5
"""Of a controller that has nothing to do, so that nothing takes little time."""


class Outcome(msgspec.Struct, kw_only=True):
    seed: int
    failure: str = ""
    injected: Counter[str] = msgspec.field(default_factory=Counter)
    seconds: float = 0.0
    """Virtual ones."""
    settled_s: float = 0.0


class Schedule:
    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        sizes = tuple(random.choice((0.5, 0.8, 1.3, 2.5)) for _ in range(random.randint(1, 5)))
        self.world = World(
            seed=random.getrandbits(32),
            nodes=len(sizes),
            memory_gib=sizes,
            blanks=random.choice((0, 1, 1)),
            pace_s=random.choice((0.05, 0.2, 0.25, 0.25)),
        )
        self.faults = Faults(self.world, random)
        self.outcome = Outcome(seed=seed)
        self._fitting: dict[object, bool] = {}
        self._said, self._peace_since = -1, self.world.now
        self.world.note("nodes of {} GiB", sizes)

    def run(self) -> Outcome:
        try:
            self._begin()
            self._strike()
            self._settle()
            self._rest()
        except Broken as broken:
            self.outcome.failure = str(broken)
        except Exception as error:
            self.outcome.failure = f"{type(error).__name__}: {error}"
            raise
        finally:
            self.outcome.injected = self.faults.injected
            self.outcome.seconds = self.world.now
        return self.outcome

    def _begin(self) -> None:
        random, world = self.random, self.world
        for _ in range(random.randint(0, 4)):
            want_any(world, random)
        if random.random() < 0.6:
            world.run(8.0, world.all_ready)
        for _ in range(random.randint(0, 3)):
            self.faults.strike("open_streams")

    def _strike(self) -> None:
        random, world = self.random, self.world
        kinds = random.sample(list(FAULTS), random.randint(1, 6))
        lasting = random.uniform(*FAULTS_S)
        for _ in range(random.randint(*STRIKES)):
            world.clock.after(
                random.uniform(0.0, lasting), self.faults.strike, random.choice(kinds)
            )
        world.run(lasting)
        self.faults.end()
        world.watch.calmed()
        world.note("faults have ended")

    def _settle(self) -> None:
        calm_at = self.world.now
        self.world.run(NOTICE_S)
        if not self.world.run(SETTLE_S, self._is_at_peace):
            raise Broken(f"not at peace {SETTLE_S:.0f} s after the last fault: {self._unrest()}")
        self.outcome.settled_s = self.world.now - calm_at

    def _rest(self) -> None:
        world = self.world
        said = world.said
        world.controllers[0].pace_s = RESTING_PACE_S
        world.run(REST_S)
        if world.said > said:
            news = [event.sentence for event in world.log][said - world.said :]
            raise Broken(f"the event log is not at rest: {'; '.join(news[:3])}")
        if unrest := self._unrest():
            raise Broken(f"there was peace, and it ended: {unrest}")
        world.watch.rested()

    # --- peace -----------------------------------------------------------------------------------

    def _is_at_peace(self) -> bool:
        """For long enough that the controller has seen all there is to see, and said nothing."""
        world = self.world
        if world.said != self._said or self._unrest():
            self._said, self._peace_since = world.said, world.now
        return world.now - self._peace_since >= PEACE_S

    def _unrest(self) -> str:
        """What is not as it should be; empty if there is nothing."""
        world = self.world
        if len(world.controllers) != 1:
            return f"{len(world.controllers)} controllers run"
        book = world.controller.book
        for name, node in world.nodes.items():
            state = NodeState.READY if node.up else NodeState.LOST
            if book.nodes.get(name, NodeState.LOST) != state:
                return f"{name} is {book.nodes.get(name)} and should be {state}"
            if node.up and not node.knows_its_links:
                return f"{name} does not know of a dead link"
            if node.leave_at is not None:
                return f"{name} is about to leave"
        if book.drained:
            return f"{book.drained} are to be empty"
        if world.controllers[0].is_settling:
            return "the controller has just started"
        for inst in book.instances.values():
            if inst.wish.deleted:
                return f"{inst.id} is deleted and not gone"
            if not world.is_ready(inst) and self._fits(inst):
                return f"{inst.id} is {inst.state}: {'; '.join(inst.reasons)}"
            if 0 < inst.healthy_s(world.now) < FIRST_ANSWERS_S:
                return f"{inst.id} may keep blank runners waiting"
        for name in strays(world.controllers[0]):
            return f"{name} is stray"
        for runner in world.runners():
            if not runner.pumps:
                return f"{runner.name} is starting, or hangs"
            if runner.stuck and runner.pulse.look() is not None:
                return f"{runner.name} is stuck, and not yet given up"
            if runner.ending:
                return f"{runner.name} is ending"
            if runner.mailbox is not None and (task := runner.mailbox.in_hand) is not None:
                return f"{runner.name} is at {task.task_id}"
        for name, patience in book.blank_patience.items():
            if world.nodes[name].up and patience.not_before > world.now:
                return f"{name} waits before it starts another blank runner"
        for known in book.runners.values():
            if known.kill or world.runner(known.id) is None:
                return f"{known.id} is to end, or has ended"
        for task in book.tasks.values():
            if not task.state.is_terminal:
                return f"{task.id} has not ended"
        routes = world.routes.routes if world.routes else ()
        if {route.instance for route in routes} - set(book.instances):
            return "a route leads to what is gone"
        served = {route.model for route in routes}
        for client in world.gateway.clients:
            if not client.ended and client.live.model in served:
                return f"{client.name} has not ended"
        return ""

    def _fits(self, inst: InstanceBook) -> bool:
        """Whether the planner finds a place for it beside the others."""
        world = self.world
        facts, book = world.controller.facts(), world.controller.book
        ledger = Ledger(facts, book)
        up = facts.nodes.keys() & {name for name, node in world.nodes.items() if node.up}
        offered, ways = budgets(facts, ledger, inst, up), links(facts, up)
        model = world.models.facts(inst.wish.model)
        if model is None:
            return True  # it is being pulled
        asked = (inst.wish, offered, ways, inst.placement)
        if asked not in self._fitting:
            answer = plan(model, offered, inst.wish, sticky=inst.placement, links=ways)
            self._fitting[asked] = not isinstance(answer, NoPlacement)
        return self._fitting[asked]
