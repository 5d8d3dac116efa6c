"""Facts and books to decide on, put down by hand."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from paceline.controller.act import Actor
from paceline.controller.actions import Action, Decision
from paceline.controller.book import Book, InstanceBook, RunnerBook, SeatBook, TaskBook
from paceline.controller.decide import decide
from paceline.controller.facts import Facts, GatewaySeen, ModelSeen, NodeSeen, RunnerSeen
from paceline.planner import NodeBudget, plan
from paceline.types.facts import (
    DriverLink,
    GatewayFacts,
    LineHealth,
    LinkOffer,
    NodeFacts,
    ProcessExit,
    ProcessFacts,
    RunnerFacts,
    StreamLoad,
    WorkFacts,
)
from paceline.types.ids import Epoch, Seat
from paceline.types.instance import InstanceWish, Placement
from paceline.types.states import InstanceState, RunnerState
from paceline.types.tasks import TaskStatus
from tests.simulation.models import CLUSTER, GIB, SMOL

NOW = 1000.0
START = 900.0
"""When the controller of a scene started: long ago."""

WISH = InstanceWish(id="i-1", model="smol", dtype="float32", min_nodes=2)


def placement() -> Placement:
    nodes = [NodeBudget(name=n, memory_bytes=2 * GIB, free_bytes=2 * GIB) for n in ("n1", "n2")]
    placed = plan(SMOL, nodes, WISH)
    assert isinstance(placed, Placement)
    return placed


PLACED = placement()
MEMORY = {seat.node: seat.memory_bytes for seat in PLACED.seats}


class Scene:
    """Two nodes of 2 GiB that were heard just now, and nothing else."""

    def __init__(self, term: int = 1, started_at: float = START) -> None:
        self.now = NOW
        self.book = Book(CLUSTER, term)
        self.nodes: dict[str, NodeSeen] = {}
        self.runners: dict[str, RunnerSeen] = {}
        self.gateways: dict[str, GatewaySeen] = {}
        self.models = {"smol": ModelSeen(facts=SMOL)}
        self.started_at = self.awake_since = started_at
        self.sent: list[tuple[str, Any]] = []
        for name in ("n1", "n2"):
            self.node(name)
        self.book.nodes = {"n1": "ready", "n2": "ready"}

    # --- who is there ----------------------------------------------------------------------------

    def node(
        self,
        name: str,
        *processes: str,
        silent_s: float = 0.0,
        incarnation: str = "a",
        memory_bytes: int = 2 * GIB,
        exits: tuple[ProcessExit, ...] = (),
        blanks: int = 0,
        holding: dict[str, int] | None = None,
    ) -> None:
        """`holding`: bytes that it counts for a process, where they are not those of a seat."""
        listed = tuple(
            ProcessFacts(
                runner_id=r, pid=7, memory_bytes=(holding or {}).get(r, MEMORY.get(name, 0))
            )
            for r in processes
        )
        facts = NodeFacts(
            name=name,
            incarnation=incarnation,
            cluster_id=CLUSTER,
            pid=1,
            host="h",
            cpus=2,
            memory_bytes=memory_bytes,
            blanks=blanks,
            processes=listed,
            exits=exits,
        )
        heard_at = self.now - silent_s
        self.nodes[name] = NodeSeen(facts=facts, heard_at=heard_at, steady_since=0.0)

    def runner(
        self,
        rank: int,
        state: RunnerState,
        *,
        epoch: Epoch | None = None,
        tasks: tuple[TaskStatus, ...] = (),
        silent_s: float = 0.0,
        hears: float = 0.0,
        loaded: bool = True,
        reason: str = "",
        work: WorkFacts | None = None,
    ) -> None:
        """`r-<rank>` on its node, with its seat's layers if `loaded`, in the line of `epoch`."""
        seat = PLACED.seats[rank]
        offer = epoch and LinkOffer(
            epoch=epoch,
            rank=rank,
            address=f"door-{rank}",
            public_key=f"key-{rank}",
            front_address="front" if rank == 0 else None,
        )
        facts = RunnerFacts(
            runner_id=f"r-{rank}",
            node=seat.node,
            incarnation="a",
            cluster_id=CLUSTER,
            pid=7,
            state=state,
            since_s=1.0,
            seat=Seat("i-1", rank) if loaded else None,
            model="smol" if loaded else None,
            shard=seat.shard if loaded else None,
            dtype=PLACED.dtype if loaded else None,
            kv_pages=seat.kv_pages if loaded else 0,
            epoch=epoch,
            offer=offer or None,
            line=LineHealth(upstream_silence_s=hears, downstream_silence_s=hears),
            load=StreamLoad(running=0, waiting=0, pages_free=8, pages_total=9, tokens_emitted=0),
            tasks=tasks,
            numerics_id="x",
            reason=reason,
            work=work,
        )
        self.runners[f"r-{rank}"] = RunnerSeen(
            facts=facts, heard_at=self.now - silent_s, first_at=START
        )

    def blank(self, name: str, node: str, state: RunnerState = RunnerState.IDLE) -> None:
        """A runner without a seat that has been heard."""
        facts = RunnerFacts(
            runner_id=name,
            node=node,
            incarnation="a",
            cluster_id=CLUSTER,
            pid=9,
            state=state,
            since_s=1.0,
        )
        self.runners[name] = RunnerSeen(facts=facts, heard_at=self.now, first_at=self.now)

    def gateway(self, name: str = "g", links: tuple[DriverLink, ...] = ()) -> None:
        facts = GatewayFacts(gateway_id=name, pid=1, url="u", public_key=f"key-{name}", links=links)
        self.gateways[name] = GatewaySeen(facts=facts, heard_at=self.now)

    # --- what was decided before -----------------------------------------------------------------

    def wanted(self, **changes: Any) -> None:
        wish = replace(WISH, **changes.pop("wish", {}))
        self.book.instances[wish.id] = InstanceBook(wish=wish, **changes)

    def placed(self, *ranks: int, **changes: Any) -> None:
        """The instance has its seats; `ranks` have their runners, listed by their nodes."""
        changes = {"state": InstanceState.STARTING, **changes}
        self.wanted(
            seats=tuple(
                SeatBook(plan=seat, runner=f"r-{seat.rank}" if seat.rank in ranks else None)
                for seat in PLACED.seats
            ),
            dtype=PLACED.dtype,
            **changes,
        )
        for rank in ranks:
            node = PLACED.seats[rank].node
            self.node(node, f"r-{rank}")
            self.book.runners[f"r-{rank}"] = RunnerBook(
                id=f"r-{rank}",
                node=node,
                incarnation="a",
                memory_bytes=MEMORY[node],
                seat=Seat("i-1", rank),
                ordered_at=NOW - 5.0,
                sent_at=NOW - 5.0,
                in_inventory=True,
            )

    def given(self, rank: int, task: Any, **changes: Any) -> None:
        times = {"sent_at": self.now, "moved_at": self.now, "ordered_at": self.now}
        entry = TaskBook(task=task, runner=f"r-{rank}", **{**times, **changes})
        self.book.tasks[task.task_id] = entry

    def ready(self, epoch: Epoch) -> None:
        """A whole line that stands."""
        state = {"state": InstanceState.READY, "epoch": epoch, "ready_since": START}
        self.placed(0, 1, **state)
        for rank in (0, 1):
            self.runner(rank, RunnerState.READY, epoch=epoch)

    # --- deciding --------------------------------------------------------------------------------

    def facts(self) -> Facts:
        return Facts(
            cluster_id=CLUSTER,
            started_at=self.started_at,
            awake_since=self.awake_since,
            nodes=dict(self.nodes),
            runners=dict(self.runners),
            gateways=dict(self.gateways),
            models=dict(self.models),
        )

    def decision(self) -> Decision:
        return decide(self.facts(), self.book, self.now)

    def decide(self) -> tuple[Action, ...]:
        decision = self.decision()
        self.book.names = max(self.book.names, decision.names)
        return decision.actions

    def act(self, *actions: Action) -> None:
        scene = self

        class Cluster:
            def launch(self, node: str, order: Any) -> bool:
                scene.sent.append((node, order))
                return True

            def reserve(self, node: str, order: Any) -> bool:
                scene.sent.append((node, order))
                return True

            def introduce(self, node: str, order: Any) -> bool:
                scene.sent.append((node, order))
                return True

            def kill(self, node: str, incarnation: str, order: Any) -> bool:
                scene.sent.append((node, order))
                return True

        actor = Actor(
            self.book,
            Cluster(),
            lambda peer, message: bool(scene.sent.append((peer, message))) or True,
            forget=lambda instance: None,
            pull=lambda model: scene.sent.append(("pull", model)),
        )
        for action in actions:
            actor.act(action, self.now)

    def go(self, rounds: int = 16) -> list[str]:
        """Decides and acts until nothing is left to do; the sentences that were said aloud."""
        said: list[str] = []
        for _ in range(rounds):
            actions = self.decide()
            if not actions:
                return said
            said += [action.sentence for action in actions if not action.quiet]
            self.act(*actions)
        raise AssertionError(f"deciding does not come to rest: {said}")

    @property
    def inst(self) -> InstanceBook:
        return self.book.instances["i-1"]
