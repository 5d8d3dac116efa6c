"""The driver between gateways and the scheduler, without sockets and without a line."""

from __future__ import annotations

import msgspec
import pytest

from paceline.engine.scheduler import Scheduler
from paceline.engine.stepcost import LEAST_ROWS, STALE_STEPS, STRETCH, StepCost
from paceline.runner.depth import MOST, Depth
from paceline.runner.driver import WAITING_S, Driver
from paceline.runner.turnover import LONGEST_S, UNMEASURED_S, Turnover
from paceline.types.ids import StreamId
from paceline.types.step import Times
from paceline.types.stream import (
    Finished,
    FromDriver,
    Rejected,
    SamplingParams,
    StreamRecord,
    Submit,
    Token,
    Tokens,
    Waiting,
)
from tests.engine.fake_line import EOS, VOCAB, FakeLine

GATEWAY = b"g"


class Desk:
    """A driver with a gateway before it and a line of a given speed behind it."""

    def __init__(self, *, row_s: float = 0.001, step_s: float = 0.010, **bounds: int) -> None:
        self.now = 1000.0
        self.said: list[FromDriver] = []
        self.cost = StepCost(512)
        self.scheduler = Scheduler(
            pages=200, max_context=8000, vocab_size=VOCAB, eos_ids=frozenset({EOS}),
            cost=self.cost, **bounds,
        )  # fmt: skip
        self.driver = Driver(self.scheduler, self.cost, Depth(1), self)
        self.driver.refusing = None
        self.line = FakeLine(row_budget=512, batches_in_flight=1)
        self._row_s, self._step_s = row_s, step_s

    def send(self, peer: bytes, message: FromDriver) -> bool:
        assert peer == GATEWAY
        self.said.append(message)
        return True

    def submit(self, name: str, prompt: int = 3, max_tokens: int = 4) -> None:
        params = SamplingParams(max_tokens=max_tokens, seed=0, ignore_eos=True)
        ids = tuple((i * 7 + len(self.line.admissions) + 1) % VOCAB for i in range(prompt))
        record = StreamRecord(stream_id=StreamId(name), attempt=0, prompt_ids=ids, params=params)
        self.driver.receive(GATEWAY, Submit(record), self.now)

    def step(self, worked_s: float = 0.0) -> float | None:
        """One step, on which a rank computed so long; what it took, or None if there was none."""
        step = self.driver.next_step(self.now)
        if step is None:
            return None
        self.line.send(step)
        took_s = self._step_s + self._row_s * step.rows
        self.now += took_s
        times = Times(slowest_s=worked_s)
        sampled = msgspec.structs.replace(self.line.run(), times=times)
        self.driver.deliver(self.driver.complete(sampled, self.now))
        return took_s

    def tokens(self, name: str) -> list[Token]:
        news = [message for message in self.said if isinstance(message, Tokens)]
        return [t for message in news for t in message.tokens if t.stream_id == name]

    @property
    def ends(self) -> list[Finished]:
        return [end for m in self.said if isinstance(m, Tokens) for end in m.finished]

    @property
    def rejected(self) -> list[Rejected]:
        return [message for message in self.said if isinstance(message, Rejected)]


def test_tokens_go_to_who_asked() -> None:
    desk = Desk()
    desk.submit("a")
    while desk.step() is not None:
        pass
    assert [token.position for token in desk.tokens("a")] == [0, 1, 2, 3]
    assert [end.stream_id for end in desk.ends] == ["a"]
    assert desk.driver.load.prefix_queries == 3


def test_guesses_are_counted_in_its_load() -> None:
    desk = Desk(guess_rows=16)
    desk.submit("a", max_tokens=200)
    while desk.step() is not None:
        pass
    load = desk.driver.load
    assert 0 < load.guesses_right < load.guesses_made
    assert (load.guesses_made, load.guesses_right) == (
        desk.scheduler.guesses_made, desk.scheduler.guesses_right,
    )  # fmt: skip


@pytest.mark.parametrize("streams", [1, 8])
@pytest.mark.parametrize(("row_s", "step_s"), [(0.0006, 0.009), (0.0001, 0.020), (0.002, 0.005)])
def test_a_long_prompt_slows_running_streams_by_no_more_than_was_agreed(
    streams: int, row_s: float, step_s: float
) -> None:
    desk = Desk(row_s=row_s, step_s=step_s)
    for i in range(streams):
        desk.submit(f"s{i}", max_tokens=2000)
    idle = [desk.step() for _ in range(50)][-1]
    assert idle is not None
    desk.submit("long", prompt=4000, max_tokens=1)
    during: list[float] = []
    while not desk.tokens("long"):
        took_s = desk.step()
        assert took_s is not None
        during.append(took_s)
    # So many rows a step takes of a prompt at least, whatever they cost.
    assert max(during) <= max(1.03 * STRETCH * idle, idle + (LEAST_ROWS + 0.5) * row_s)
    assert sum(during) <= 4000 * row_s + len(during) * idle * 1.01
    assert len(during) <= 4000 / LEAST_ROWS * (1 + 1 / STALE_STEPS) + 8


def test_gateways_are_told_who_waits_for_others_while_the_line_moves() -> None:
    desk = Desk(max_running=2)
    for name in ("runs", "reads", "waits"):
        desk.submit(name, prompt=5000 if name == "reads" else 3, max_tokens=4000)

    def told_after(seconds: float, *, moves: bool) -> list[tuple[str, int]]:
        desk.said.clear()
        until = desk.now + seconds
        while desk.now < until:
            if not moves:
                desk.now += 0.1
            else:
                desk.step()
            desk.driver.tick(desk.now)
        words = [message for message in desk.said if isinstance(message, Waiting)]
        assert len(words) <= seconds / WAITING_S + 1
        return [stream for word in words for stream in word.streams]

    desk.step()
    assert set(told_after(2 * WAITING_S, moves=True)) == {("reads", 0), ("waits", 0)}
    told_after(WAITING_S, moves=False)
    assert told_after(5 * WAITING_S, moves=False) == []
    while not desk.tokens("reads"):
        desk.step()
    assert set(told_after(2 * WAITING_S, moves=True)) == {("waits", 0)}


def test_a_full_queue_tells_when_to_come_again() -> None:
    desk = Desk(max_running=1, max_waiting=2)
    for name in "abc":
        desk.submit(name)
        desk.step()
    desk.submit("d")
    (rejected,) = desk.rejected
    assert (rejected.stream_id, rejected.code, rejected.retry) == ("d", "queue_full", True)
    assert rejected.retry_after_s == UNMEASURED_S


def test_other_refusals_tell_no_time() -> None:
    desk = Desk()
    desk.driver.refusing = "the instance is being drained"
    desk.submit("a")
    desk.driver.refusing = None
    desk.submit("b", prompt=9000)
    codes = [(each.code, each.retry, each.retry_after_s) for each in desk.rejected]
    assert codes == [("unavailable", True, None), ("invalid_request", False, None)]


def test_the_time_to_come_again_follows_the_pace() -> None:
    turnover = Turnover()
    assert turnover.wait_s(8, 0.0) == UNMEASURED_S
    for i in range(100):
        turnover.ended(i * 0.5)
    assert turnover.wait_s(8, 49.5) == 4
    assert turnover.wait_s(1, 49.5) == 1
    assert turnover.wait_s(10_000, 49.5) == LONGEST_S
    assert turnover.wait_s(8, 49.5 + 20) == 16, "nobody has ended for a while"
    turnover.began(4000.0)
    assert turnover.wait_s(8, 4000.0) == 4, "idle is not slow"
    for i in range(200):
        turnover.ended(4000 + i * 2.0)
    assert turnover.wait_s(8, 4398.0) in (16, 17)


def round_trips(depth: Depth, ratio: float, times: int = 500) -> int:
    for _ in range(times):
        depth.measured(ratio * 0.010, 0.010)
    return depth.batches


def test_a_line_has_as_many_batches_as_a_trip_takes_of_its_slowest_rank() -> None:
    assert round_trips(Depth(1), 1.1) == 1
    assert round_trips(Depth(2), 1.6) == 2, "never fewer than ranks"
    assert round_trips(Depth(2), 2.2) == 2, "half a batch of waiting is cheaper than a smaller one"
    assert round_trips(Depth(2), 3.1) == 3
    assert round_trips(Depth(2), 50.0) == 4
    assert round_trips(Depth(12), 50.0) == MOST
    assert round_trips(Depth(20), 50.0) == 20


def test_one_late_step_changes_no_depth_and_a_link_that_got_better_does() -> None:
    depth = Depth(2)
    assert round_trips(depth, 20.0, times=1) == 2
    assert round_trips(depth, 4.0) == 4
    depth.measured(0.01, 0.0)
    assert round_trips(depth, 2.0) == 2


def test_the_driver_fills_a_slow_line() -> None:
    desk = Desk(step_s=0.040)
    for i in range(4):
        desk.submit(f"s{i}", max_tokens=400)
    while desk.step(worked_s=0.020) is not None:
        pass
    assert desk.scheduler.batches_in_flight == 2
