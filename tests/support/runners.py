"""Real runner processes, with the test in the controller's place."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from paceline.planner import plan
from paceline.planner.plan import NodeBudget
from paceline.process.home import Home
from paceline.process.runtime import control_address
from paceline.transport.control import ControlServer
from paceline.transport.front import AsyncFrontClient
from paceline.transport.keys import KeyPair
from paceline.transport.membership import Membership
from paceline.types.control import Assign, Line, RunnerBeat
from paceline.types.facts import RunnerFacts
from paceline.types.ids import Epoch, Seat, fresh_id
from paceline.types.instance import InstanceWish, Placement
from paceline.types.model import ModelFacts, Shard
from paceline.types.states import RunnerState, TaskState
from paceline.types.stream import Finished, Rejected, StreamRecord, Submit, Token, Tokens
from paceline.types.tasks import Connect, Load, Task, TaskStatus, WarmUp

WAIT_S = 120.0


def place(facts: ModelFacts, ranks: int, kv_tokens: int = 4096, dtype: str = "auto") -> Placement:
    nodes = [NodeBudget(name=f"n{i}", memory_bytes=2**36, free_bytes=2**36) for i in range(ranks)]
    wish = InstanceWish(
        id="i-1", model=facts.name, min_nodes=ranks, kv_tokens=kv_tokens, dtype=dtype
    )
    placed = plan(facts, nodes, wish)
    assert isinstance(placed, Placement), placed
    return placed


class Runners:
    """A line of runner processes, one for each rank. Use as a context manager.

    `options` are added to the command line of each.
    """

    def __init__(
        self, home: Path, model: str, placement: Placement, options: tuple[str, ...] = ()
    ) -> None:
        self.home = Home(home)
        self.home.create()
        self.model = model
        self.placement = placement
        self.keys = KeyPair.fresh()
        self.facts: dict[str, RunnerFacts] = {}
        self.term, self.n = 1, 1
        self._options = options
        self._runtime = self.home.runtime()
        self._server = ControlServer(control_address(self._runtime), Membership.of_head(self.home))
        self.names = [f"r-{seat.rank}" for seat in placement.seats]
        self.processes = [self._start(seat.rank) for seat in placement.seats]

    def replace(self, rank: int) -> None:
        """Another process, of another name, for a rank whose process has ended."""
        assert self.processes[rank].poll() is not None, "it lives"
        self.names[rank] = fresh_id(f"r-{rank}")
        self.processes[rank] = self._start(rank)

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        options = {
            "--home": str(self.home.path),
            "--runtime": str(self._runtime),
            "--cluster-id": "c",
            "--node": f"n{rank}",
            "--incarnation": "x",
            "--runner-id": self.names[rank],
        }
        words = [word for pair in options.items() for word in pair]
        argv = [sys.executable, "-m", "paceline.runner", *words, *self._options]
        with self.said(rank).open("ab") as output:
            return subprocess.Popen(argv, stdout=output, stderr=output)

    def said(self, rank: int) -> Path:
        """The file with what the rank's process wrote to stdout and stderr."""
        return self.home.logs / f"runner-{self.names[rank]}.out"

    def __enter__(self) -> Runners:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self._server.close()

    @property
    def ranks(self) -> range:
        return range(self.placement.world_size)

    def look(self, timeout_s: float = 0.1) -> None:
        for _, message in self._server.receive(timeout_s):
            if isinstance(message, RunnerBeat):
                self.facts[message.facts.runner_id] = message.facts

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}: {self.facts}"
            self.look()

    def seen(self, rank: int) -> RunnerFacts | None:
        """What the rank's process said last; None before its first word."""
        return self.facts.get(self.names[rank])

    def assign(self, rank: int, task: Task) -> None:
        self.until(lambda: self.seen(rank) is not None, f"a beat of rank {rank}")
        assert self._server.send(f"runner:{self.names[rank]}", Assign(task))

    def post(self, rank: int, payload: bytes) -> bool:
        """Bytes to the rank's process as they are; False if they could not be sent now."""
        try:
            self._server.socket.send_multipart(
                [f"runner:{self.names[rank]}".encode(), payload], zmq.NOBLOCK
            )
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise
        return True

    def status(self, rank: int, task_id: str) -> TaskStatus | None:
        facts = self.seen(rank)
        return next((t for t in facts.tasks if t.task_id == task_id), None) if facts else None

    def outcome(self, rank: int, task: Task) -> TaskStatus:
        """Assign the task and wait for its terminal state."""
        self.assign(rank, task)

        def ended() -> bool:
            status = self.status(rank, task.task_id)
            return status is not None and status.state.is_terminal

        self.until(ended, f"the end of {task.task_id}")
        found = self.status(rank, task.task_id)
        assert found is not None
        return found

    def epoch(self) -> Epoch:
        return Epoch(self.term, self.n)

    def load(self, rank: int, shard: Shard | None = None) -> Load:
        seat = self.placement.seats[rank]
        return Load(
            task_id=f"load-{rank}-{self.epoch()}", epoch=self.epoch(), deadline_s=60,
            seat=Seat("i-1", rank), model=self.model, shard=shard or seat.shard,
            dtype=self.placement.dtype, kv_pages=seat.kv_pages, memory_bytes=seat.memory_bytes,
        )  # fmt: skip

    def connect(self, rank: int) -> Connect:
        return Connect(
            task_id=f"connect-{rank}-{self.epoch()}", epoch=self.epoch(), deadline_s=20,
            seat=Seat("i-1", rank), world_size=self.placement.world_size,
            nodes=tuple(seat.node for seat in self.placement.seats),
        )  # fmt: skip

    def warm_up(self, rank: int) -> WarmUp:
        return WarmUp(task_id=f"warm-{rank}-{self.epoch()}", epoch=self.epoch(), deadline_s=20)

    def all_in(self, state: RunnerState) -> None:
        def there() -> bool:
            return all(
                (facts := self.seen(rank)) is not None and facts.state is state
                for rank in self.ranks
            )

        self.until(there, f"all ranks {state}")

    def load_all(self) -> None:
        for rank in self.ranks:
            self.assign(rank, self.load(rank))
        self.all_in(RunnerState.LOADED)

    def join_line(self) -> None:
        """A new epoch: connect, introduce, warm up."""
        self.n += 1
        for rank in self.ranks:
            self.assign(rank, self.connect(rank))
        self.until(lambda: len(self._offers()) == len(self.ranks), "all offers")
        order = Line(epoch=self.epoch(), offers=self._offers(), gateway_keys=(self.keys.public,))
        for rank in self.ranks:
            self._server.send(f"runner:{self.names[rank]}", order)
        self.all_in(RunnerState.WARMING)
        for rank in self.ranks:
            self.assign(rank, self.warm_up(rank))
        self.all_in(RunnerState.READY)

    def _offers(self):
        offers = [facts.offer for rank in self.ranks if (facts := self.seen(rank)) is not None]
        return tuple(offer for offer in offers if offer and offer.epoch == self.epoch())

    def generate(self, records: list[StreamRecord]) -> dict[str, tuple[list[Token], Finished]]:
        return asyncio.run(asyncio.wait_for(self._generate(records), WAIT_S))

    async def _generate(self, records: list[StreamRecord]):
        facts = self.seen(0)
        assert facts is not None
        assert facts.offer is not None
        offer = facts.offer
        client = AsyncFrontClient(offer.front_address, offer.public_key, self.keys)
        tokens: dict[str, list[Token]] = {record.stream_id: [] for record in records}
        ends: dict[str, Finished] = {}
        try:
            for record in records:
                client.send(Submit(record))
            while len(ends) < len(records):
                match await client.receive():
                    case Tokens(news, finished):
                        for token in news:
                            tokens[token.stream_id].append(token)
                        ends |= {end.stream_id: end for end in finished}
                    case Rejected() as rejected:
                        raise AssertionError(rejected)
        finally:
            client.close()
        return {i: (tokens[i], ends[i]) for i in tokens}

    def failed(self, status: TaskStatus, words: str) -> None:
        assert status.state is TaskState.FAILED, status
        assert words in status.reason, status
