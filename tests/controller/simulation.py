"""Nodes and runners that obey orders, a network that loses, repeats and delays, and a clock that
is moved by hand. The controller in the middle is the real one, and so are the tables that the
runners live by."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from paceline.checkpoint.manifest import MANIFEST_NAME
from paceline.checkpoint.store import Store as CheckpointStore
from paceline.cluster.local.cluster import LocalCluster
from paceline.controller.book import InstanceBook
from paceline.controller.controller import Controller, open_book
from paceline.controller.events import EventLog
from paceline.controller.facts import ModelSeen
from paceline.controller.store import Store
from paceline.lifecycle import PROGRESS, RUNNER, Accept, Moved, Park, RunnerEvent, advance, verdict
from paceline.types.control import (
    Assign,
    GatewayBeat,
    Kill,
    Launch,
    Line,
    NodeBeat,
    Reserve,
    Routes,
    RunnerBeat,
)
from paceline.types.facts import (
    GatewayFacts,
    LineHealth,
    LinkOffer,
    NodeFacts,
    ProcessExit,
    ProcessFacts,
    RunnerFacts,
    StreamLoad,
)
from paceline.types.ids import Epoch
from paceline.types.instance import InstanceWish
from paceline.types.model import ModelFacts
from paceline.types.states import RunnerState, TaskState
from paceline.types.tasks import TASK_KINDS, Connect, Drain, Fetch, Load, Stop, TaskStatus, WarmUp

GIB = 1024**3
CLUSTER = "cluster-1"
BEAT_S = 0.5
TICK_S = 0.1
GRACE_S = 0.25
SILENT_LINK_S = 2.0
"""How long a rank takes to notice that a neighbour is gone."""

SMOL = ModelFacts(
    name="smol",
    family="llama",
    digest="d",
    disk_bytes=270 * 10**6,
    layer_params=(3_540_096,) * 30,
    embed_params=28_311_552,
    head_params=28_312_128,
    tied=True,
    width=576,
    vocab_size=49152,
    kv_width=192,
    max_context=8192,
)

IN_A_LINE = (
    RunnerState.CONNECTING,
    RunnerState.WARMING,
    RunnerState.READY,
    RunnerState.DRAINING,
)


class OnDisk:
    """A store that holds `smol`, and whose sizes are known without a file."""

    def __init__(self, home: Path) -> None:
        self.store = CheckpointStore(home)
        directory = home / "models" / "smol"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MANIFEST_NAME).write_text("{}")

    def facts(self, name: str) -> ModelFacts:
        return SMOL

    def look(self, names: Any) -> dict[str, ModelSeen]:
        return {name: ModelSeen(facts=SMOL) for name in names}

    def pull(self, name: str) -> None:
        raise AssertionError("everything is on disk")


class SimRunner:
    """A runner process, as far as anyone outside can tell."""

    def __init__(self, world: World, name: str, node: SimNode, pid: int) -> None:
        self.world = world
        self.name = name
        self.node = node
        self.pid = pid
        self.state = RunnerState.IDLE
        self.since = world.now
        self.starts_at = world.now + world.random.uniform(0.2, 2.0)
        self.beats_at = self.starts_at
        self.epoch: Epoch | None = None
        self.seat_task: Load | None = None
        self.line_task: Connect | None = None
        self.line: Line | None = None
        self.reason = ""
        self.parked: list[tuple[Any, float]] = []
        self.in_hand: tuple[Any, float] | None = None
        self.statuses: dict[str, TaskStatus] = {}
        self.hung = False
        self.exiting = False
        self.peer_gone_since: float | None = None

    # --- what a mailbox does ---------------------------------------------------------------------

    def receive(self, message: Any) -> None:
        if self.hung or self.world.now < self.starts_at:
            return
        if isinstance(message, Line):
            if self.line_task and message.epoch == self.line_task.epoch:
                self.line = message
            return
        task = message.task
        if task.task_id not in self.statuses:
            self._judge(task, self.world.now + GRACE_S)
        self.beats_at = self.world.now

    def _judge(self, task: Any, until: float) -> None:
        kind = TASK_KINDS[type(task)]
        answer = verdict(self.state, kind, self.epoch, task.epoch)
        if isinstance(answer, Accept):
            self._begin(task, answer.event)
        elif isinstance(answer, Park) and self.world.now < until:
            self.parked.append((task, until))
            self._note(task, TaskState.PARKED, answer.reason)
        else:
            self._note(task, TaskState.FAILED, answer.reason)

    def _begin(self, task: Any, event: RunnerEvent) -> None:
        if self.in_hand:
            self._note(self.in_hand[0], TaskState.CANCELLED, "gave way")
        assert self.epoch is None or task.epoch >= self.epoch, "an older epoch changed something"
        self.epoch = task.epoch
        self.in_hand = (task, self.world.now + self.world.random.uniform(0.05, 1.5))
        self._note(task, TaskState.RUNNING)
        self._move(event)
        if isinstance(task, Load):
            self.seat_task = None
        if isinstance(task, Connect):
            self._leave("a new epoch")
            if self.seat_task is None or self.seat_task.seat != task.seat:
                self._fail(f"connect is for seat {task.seat}")
            else:
                self.line_task = task
        if isinstance(task, Stop):
            self._note(task, TaskState.COMPLETE)
            self.in_hand = None
            self.exiting = True

    def _move(self, event: RunnerEvent, reason: str = "") -> None:
        answer = advance(RUNNER, self.state, event)
        if isinstance(answer, Moved):
            self.state, self.since, self.reason = answer.state, self.world.now, reason
            self.beats_at = self.world.now
            parked, self.parked = self.parked, []
            for task, until in parked:
                self._judge(task, until)

    def _note(self, task: Any, state: TaskState, reason: str = "", progress: float = 0.0) -> None:
        self.statuses[task.task_id] = TaskStatus(
            task_id=task.task_id,
            kind=TASK_KINDS[type(task)],
            state=state,
            reason=reason,
            progress=progress,
        )
        self.beats_at = self.world.now

    def _fail(self, reason: str) -> None:
        if self.in_hand:
            task, self.in_hand = self.in_hand[0], None
            self._note(task, TaskState.FAILED, reason)
            self._move(RunnerEvent.TASK_FAILED, reason)

    def _leave(self, reason: str) -> None:
        self.line_task, self.line, self.peer_gone_since = None, None, None

    # --- time passes -----------------------------------------------------------------------------

    def tick(self) -> None:
        now = self.world.now
        if self.hung or now < self.starts_at:
            return
        if self.exiting:
            self._beat()
            self.node.end(self, 0, "ended with exit code 0, as asked")
            return
        for task, until in list(self.parked):
            if now >= until:
                self.parked.remove((task, until))
                self._judge(task, until)
        self._work(now)
        self._watch_line(now)
        if now >= self.beats_at:
            self._beat()

    def _work(self, now: float) -> None:
        if self.in_hand is None:
            return
        task, due = self.in_hand
        if isinstance(task, Connect):
            done = self.world.is_met(self)
        elif isinstance(task, WarmUp):
            done = self.world.is_warm(self) and now >= due
        else:
            done = now >= due
        if not done:
            if isinstance(task, Connect | WarmUp) and now >= self.since + task.deadline_s:
                self._fail(f"not done within {task.deadline_s:g} s")
                self._leave("timed out")
            return
        if isinstance(task, Fetch | Load) and self.world.random.random() < self.world.task_failures:
            self._fail("the disk said no")
            return
        self.in_hand = None
        if isinstance(task, Load):
            self.seat_task = task
        self._note(task, TaskState.COMPLETE, progress=1.0)
        done_event = next(e for e in (*PROGRESS, RunnerEvent.DRAIN_DONE) if e == _done(task))
        self._move(done_event)

    def _watch_line(self, now: float) -> None:
        if self.line_task is None or self.state not in IN_A_LINE:
            return
        if self.world.has_peers(self) or self.state is RunnerState.CONNECTING:
            self.peer_gone_since = None
            return
        self.peer_gone_since = self.peer_gone_since or now
        if now - self.peer_gone_since >= SILENT_LINK_S:
            if self.in_hand:
                task, self.in_hand = self.in_hand[0], None
                self._note(task, TaskState.FAILED, "the line was lost")
            self._leave("lost")
            self._move(RunnerEvent.LINE_LOST, "a neighbour has been silent")

    def _beat(self) -> None:
        self.beats_at = self.world.now + BEAT_S
        self.world.send(f"runner:{self.name}", "controller", RunnerBeat(self.facts()))

    def facts(self) -> RunnerFacts:
        seat, line = self.seat_task, self.line_task
        offer = None
        if line is not None:
            door = f"{self.name}@{line.epoch}"
            offer = LinkOffer(
                epoch=line.epoch,
                rank=line.seat.rank,
                address=door,
                public_key=door,
                front_address=f"front:{door}" if line.seat.rank == 0 else None,
            )
        silence = 0.0
        if self.peer_gone_since is not None:
            silence = self.world.now - self.peer_gone_since
        health = LineHealth(upstream_silence_s=silence, downstream_silence_s=silence)
        return RunnerFacts(
            runner_id=self.name,
            node=self.node.name,
            incarnation=self.node.incarnation,
            cluster_id=CLUSTER,
            pid=self.pid,
            state=RunnerState.STOPPED if self.exiting else self.state,
            since_s=self.world.now - self.since,
            seat=seat.seat if seat else None,
            model=seat.model if seat else None,
            shard=seat.shard if seat else None,
            dtype=seat.dtype if seat else None,
            kv_pages=seat.kv_pages if seat else 0,
            epoch=self.epoch,
            offer=offer,
            line=health if line else None,
            load=StreamLoad(running=0, waiting=0, pages_free=9, pages_total=9, tokens_emitted=0),
            tasks=tuple(self.statuses.values())[-32:],
            numerics_id="n",
            reason=self.reason,
        )


def _done(task: Any) -> str:
    return "drain_done" if isinstance(task, Drain) else f"{TASK_KINDS[type(task)]}_done"


class SimNode:
    """A supervisor with its runners. It keeps the promises of `paceline.cluster.base`."""

    def __init__(self, world: World, name: str, memory_bytes: int) -> None:
        self.world = world
        self.name = name
        self.memory_bytes = memory_bytes
        self.up = False
        self.starts = 0
        self.boot()

    def boot(self) -> None:
        self.starts += 1
        self.incarnation = f"{self.name}-{self.starts}"
        self.alive: dict[str, tuple[SimRunner, int]] = {}
        self.used: set[str] = set()
        self.exits: list[ProcessExit] = []
        self.ending: dict[str, float] = {}
        self.up = True
        self.beats_at = self.world.now

    def crash(self) -> None:
        self.up = False
        self.alive.clear()

    def receive(self, message: Launch | Reserve | Kill) -> None:
        name = message.runner_id
        if isinstance(message, Reserve):
            self._reserve(message)
            return
        if isinstance(message, Kill):
            self.used.add(name)
            if name in self.alive:
                due = self.world.now + self.world.random.uniform(0.0, message.grace_s)
                self.ending[name] = min(self.ending.get(name, due), due)
            return
        if message.incarnation != self.incarnation or name in self.used:
            return
        self.used.add(name)
        reserved = sum(memory for _, memory in self.alive.values())
        if reserved + message.memory_bytes > self.memory_bytes:
            self.world.refusals.append(f"{name} on {self.name} at {self.world.now:.1f}")
            self._bury(name, 69, "not started: no memory")
            return
        runner = SimRunner(self.world, name, self, next(self.world.pids))
        self.alive[name] = (runner, message.memory_bytes)
        self.beats_at = self.world.now

    def _reserve(self, order: Reserve) -> None:
        if order.incarnation == self.incarnation and order.runner_id in self.alive:
            runner, counted = self.alive[order.runner_id]
            reserved = sum(memory for _, memory in self.alive.values())
            if 0 < order.memory_bytes - counted <= self.memory_bytes - reserved:
                self.alive[order.runner_id] = (runner, order.memory_bytes)
            self.beats_at = self.world.now

    def end(self, runner: SimRunner, code: int, sentence: str) -> None:
        if self.alive.pop(runner.name, None):
            self.ending.pop(runner.name, None)
            self._bury(runner.name, code, sentence)

    def _bury(self, name: str, code: int, sentence: str) -> None:
        ended = ProcessExit(runner_id=name, pid=0, code=code, sentence=sentence)
        self.exits = [*self.exits, ended][-16:]
        self.beats_at = self.world.now

    def tick(self) -> None:
        if not self.up:
            return
        for name, due in list(self.ending.items()):
            if self.world.now >= due:
                self.end(self.alive[name][0], -9, "ended by SIGKILL, as asked")
        for runner, _ in list(self.alive.values()):
            runner.tick()
        if self.world.now >= self.beats_at:
            self.beats_at = self.world.now + BEAT_S
            self.world.send(self.identity, "controller", NodeBeat(self.facts()))

    @property
    def identity(self) -> str:
        return f"node:{self.name}:{self.incarnation}"

    def facts(self) -> NodeFacts:
        processes = tuple(
            ProcessFacts(runner_id=name, pid=runner.pid, memory_bytes=memory)
            for name, (runner, memory) in self.alive.items()
        )
        return NodeFacts(
            name=self.name,
            incarnation=self.incarnation,
            cluster_id=CLUSTER,
            pid=1,
            host="h",
            cpus=2,
            memory_bytes=self.memory_bytes,
            processes=processes,
            exits=tuple(self.exits),
        )


class World:
    """The clock, the network, and everyone on it."""

    def __init__(self, home: Path, seed: int = 0, nodes: int = 2, memory_gib: float = 2.0) -> None:
        self.random = random.Random(seed)
        self.now = 100.0
        self.loss = self.repeat = self.delay_s = self.task_failures = 0.0
        self.cut: set[str] = set()
        self.refusals: list[str] = []
        self.pids = itertools.count(1000)
        self.routes: Routes | None = None
        self._home = home
        self._plans: list[tuple[float, Callable[[], None]]] = []
        self._mail: list[tuple[float, int, str, str, Any]] = []
        self._checked = 0
        self._ended: dict[str, TaskState] = {}
        self._last_at: dict[tuple[str, str], float] = {}
        self._count = itertools.count()
        self._gateway_beats_at = self.now
        self.store = Store(Path(":memory:"))
        self.nodes = {
            f"node-{n}": SimNode(self, f"node-{n}", int(memory_gib * GIB))
            for n in range(1, nodes + 1)
        }
        self.controller_up = True
        self.start_controller()

    # --- the controller --------------------------------------------------------------------------

    def start_controller(self) -> None:
        self.events = EventLog(self._home, clock=lambda: self.now)
        self.controller = Controller(
            open_book(self.store, CLUSTER),
            self.store,
            OnDisk(self._home),  # type: ignore[arg-type]
            self.events,
            LocalCluster(self.post),
            self.post,
            lambda: self.now,
        )
        self.controller_up = True

    def post(self, peer: str, message: Any) -> bool:
        self.send("controller", peer, message)
        return True

    def want(self, **options: Any) -> str:
        name = f"i-{next(self._count)}"
        wish = InstanceWish(id=name, model="smol", **options)
        self.store.put(wish)
        self.controller.book.instances[name] = InstanceBook(wish=wish)
        return name

    def unwant(self, name: str) -> None:
        inst = self.controller.book.instances[name]
        wish = replace(inst.wish, deleted=True)
        self.store.put(wish)
        self.controller.book.instances[name] = replace(inst, wish=wish)

    # --- the network -----------------------------------------------------------------------------

    def send(self, sender: str, to: str, message: Any) -> None:
        if self.cut & {self._place(sender), self._place(to)}:
            return
        copies = 0 if self.random.random() < self.loss else 1
        copies += self.random.random() < self.repeat
        for _ in range(copies):
            delayed = self.now + self.random.uniform(0.0, self.delay_s)
            # A connection keeps its order, as TCP and ZeroMQ do.
            at = self._last_at[sender, to] = max(delayed, self._last_at.get((sender, to), 0.0))
            heapq.heappush(self._mail, (at, next(self._count), sender, to, message))

    def _place(self, peer: str) -> str:
        """The node that a peer lives on, for cuts."""
        if peer.startswith("node:"):
            return peer.split(":")[1]
        if peer.startswith("runner:"):
            runner = self.runner(peer.removeprefix("runner:"))
            return runner.node.name if runner else peer
        return peer

    def _deliver(self) -> bool:
        heard = False
        while self._mail and self._mail[0][0] <= self.now:
            _, _, sender, to, message = heapq.heappop(self._mail)
            if to == "controller":
                if self.controller_up:
                    self.controller.take(sender, message)
                    heard = True
            elif to.startswith("node:"):
                node = self.nodes.get(to.split(":")[1])
                if node and node.up and node.identity == to:
                    node.receive(message)
            elif to.startswith("gateway:"):
                self.routes = message
            else:
                runner = self.runner(to.removeprefix("runner:"))
                if runner and isinstance(message, Assign | Line):
                    runner.receive(message)
        return heard

    # --- what ranks see of each other ------------------------------------------------------------

    def runners(self) -> Iterator[SimRunner]:
        for node in self.nodes.values():
            for runner, _ in node.alive.values():
                yield runner

    def runner(self, name: str) -> SimRunner | None:
        return next((r for r in self.runners() if r.name == name), None)

    def _line_of(self, runner: SimRunner) -> list[SimRunner]:
        task = runner.line_task
        assert task is not None
        return [
            other
            for other in self.runners()
            if not other.hung
            and other.line_task is not None
            and other.line_task.epoch == task.epoch
            and other.line_task.seat.instance == task.seat.instance
            and other.state in IN_A_LINE
        ]

    def is_met(self, runner: SimRunner) -> bool:
        return self.has_peers(runner) and all(r.line is not None for r in self._line_of(runner))

    def is_warm(self, runner: SimRunner) -> bool:
        states = (RunnerState.WARMING, RunnerState.READY)
        return self.has_peers(runner) and all(r.state in states for r in self._line_of(runner))

    def has_peers(self, runner: SimRunner) -> bool:
        task = runner.line_task
        return task is not None and len(self._line_of(runner)) == task.world_size

    # --- time ------------------------------------------------------------------------------------

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self._plans.append((self.now + seconds, what))

    def end_faults(self) -> None:
        """From now on the network can be trusted and nothing fails; what hangs, hangs."""
        self.loss = self.repeat = self.delay_s = self.task_failures = 0.0
        for _, what in self._plans:
            what()
        self._plans.clear()

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Lets time pass; True as soon as `until` holds."""
        end = self.now + seconds
        while self.now < end:
            if until():
                return True
            self.now = round(self.now + TICK_S, 3)
            self._tick()
        return until()

    def _tick(self) -> None:
        due = [what for at, what in self._plans if at <= self.now]
        self._plans = [plan for plan in self._plans if plan[0] > self.now]
        for what in due:
            what()
        if self.controller_up:
            self.controller.wake()
        for node in self.nodes.values():
            node.tick()
        if self.now >= self._gateway_beats_at:
            self._gateway_beats_at = self.now + BEAT_S
            facts = GatewayFacts(gateway_id="g", pid=1, url="u", public_key="key-g")
            self.send("gateway:g", "controller", GatewayBeat(facts))
        self._deliver()
        if self.controller_up:
            self.controller.step()
        self._check()

    def _check(self) -> None:
        """What must hold at every moment."""
        assert not self.refusals, self.refusals
        new = self.events.since(self._checked)
        self._checked = self.events.newest
        odd = [event.sentence for event in new if event.kind in ("restless", "internal_error")]
        assert not odd, odd
        for task_id, entry in self.controller.book.tasks.items():
            ended = self._ended.get(task_id)
            assert ended in (None, entry.state), f"{task_id} ended {ended}, now {entry.state}"
            if entry.state.is_terminal:
                self._ended[task_id] = entry.state
        for node in self.nodes.values():
            assert sum(memory for _, memory in node.alive.values()) <= node.memory_bytes

    def pause_controller(self, seconds: float) -> None:
        """The controller's machine sleeps; everyone else goes on."""
        self.controller_up = False
        held: list[Any] = []
        end = self.now + seconds
        while self.now < end:
            self.now = round(self.now + TICK_S, 3)
            for node in self.nodes.values():
                node.tick()
            arrived = [m for m in self._mail if m[3] == "controller"]
            self._mail = [m for m in self._mail if m[3] != "controller"]
            heapq.heapify(self._mail)
            held += arrived
            self._deliver()
        for each in held:
            heapq.heappush(self._mail, each)
        self.controller_up = True

    # --- what tests ask --------------------------------------------------------------------------

    def state(self, name: str) -> str:
        inst = self.controller.book.instances.get(name)
        return inst.state if inst else "gone"

    def all_ready(self) -> bool:
        """Ready by the book, and truly: a standing line of living ranks that a route leads to."""
        book = self.controller.book
        return all(
            inst.state == "ready" and self._truly_ready(inst) for inst in book.instances.values()
        )

    def _truly_ready(self, inst: Any) -> bool:
        ranks = [self.runner(seat.runner) for seat in inst.seats]
        if any(r is None or r.hung or r.state is not RunnerState.READY for r in ranks):
            return False
        epochs = {r.line_task.epoch for r in ranks if r and r.line_task}
        routed = {r.instance: r for r in (self.routes.routes if self.routes else ())}
        route = routed.get(inst.id)
        return epochs == {inst.epoch} and route is not None and route.epoch == inst.epoch

    def sentences(self) -> list[str]:
        return [event.sentence for event in self.events.since(0)]
