"""Random streams, cancels and delays against ranks that know only the steps they are sent."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from paceline.engine.scheduler import Scheduler
from paceline.types.errors import InvalidRequest, Unavailable
from paceline.types.ids import StreamId
from paceline.types.stream import Finished, SamplingParams, StreamRecord
from tests.engine.fake_line import EOS, VOCAB, FakeLine, answer

MAX_WAITING = 6
PROMPTS = st.sampled_from([1, 2, 30, 63, 64, 65, 127, 128, 150, 260])
ANSWERS = st.sampled_from([1, 2, 5, 40, 64, 130])
TALES = st.integers(0, 2)
"""Few, so that many prompts begin alike."""


@dataclass
class Client:
    """What a gateway keeps: accepts only its attempt and only the next position."""

    record: StreamRecord
    ids: list[int] = field(default_factory=list)
    end: Finished | None = None
    cancelled: bool = False


class SchedulerMachine(RuleBasedStateMachine):
    streams: Bundle[StreamId] = Bundle("streams")

    @initialize(
        pages=st.integers(3, 12),
        max_context=st.sampled_from([100, 192, 500]),
        row_budget=st.sampled_from([1, 3, 16, 64, 300]),
        guess_rows=st.sampled_from([0, 4, 16, 200]),
        max_running=st.integers(1, 6),
        batches=st.integers(1, 4),
    )
    def start(
        self,
        pages: int,
        max_context: int,
        row_budget: int,
        guess_rows: int,
        max_running: int,
        batches: int,
    ) -> None:
        self.max_context = max_context
        self.clients: dict[StreamId, Client] = {}
        self.ended: set[StreamId] = set()
        """Those that this scheduler has brought to their end."""
        self.line = FakeLine(row_budget=row_budget, batches_in_flight=batches)
        self.make = lambda: Scheduler(
            pages=pages,
            max_context=max_context,
            vocab_size=VOCAB,
            eos_ids=frozenset({EOS}),
            row_budget=row_budget,
            guess_rows=guess_rows,
            max_running=max_running,
            max_waiting=MAX_WAITING,
            batches_in_flight=self.line.batches_in_flight,
        )
        self.scheduler = self.make()

    def submit_record(self, record: StreamRecord) -> bool:
        try:
            end = self.scheduler.submit(record)
        except (InvalidRequest, Unavailable):
            return False
        assert end is None, "a gateway resumes only what has not ended"
        return True

    @rule(
        target=streams,
        prompt=PROMPTS,
        tale=TALES,
        most=ANSWERS,
        ignore_eos=st.booleans(),
    )
    def submit(self, prompt: int, tale: int, most: int, ignore_eos: bool) -> StreamId:
        name = StreamId(f"s{len(self.clients)}")
        record = StreamRecord(
            stream_id=name,
            attempt=0,
            prompt_ids=tuple((i + tale) % VOCAB for i in range(prompt)),
            params=SamplingParams(max_tokens=most, seed=0, ignore_eos=ignore_eos),
        )
        taken = self.submit_record(record)
        self.clients[name] = Client(record, cancelled=not taken)
        return name

    @rule(name=streams, older=st.integers(0, 1))
    def submit_again(self, name: StreamId, older: int) -> None:
        client = self.clients[name]
        if client.end is not None and name not in self.ended:
            return  # it ended on another line, of which this one knows nothing
        if client.record.attempt >= older and not (client.cancelled and not client.ids):
            before = self.scheduler.waiting, self.scheduler.running
            record = client.record
            self.scheduler.submit(
                StreamRecord(
                    stream_id=name,
                    attempt=record.attempt - older,
                    prompt_ids=record.prompt_ids,
                    params=record.params,
                )
            )
            assert before == (self.scheduler.waiting, self.scheduler.running)

    @rule(name=streams)
    def resume_one(self, name: StreamId) -> None:
        self.resume(name)

    def resume(self, name: StreamId) -> None:
        client = self.clients[name]
        if client.end is not None or client.cancelled:
            return
        client.record = StreamRecord(
            stream_id=name,
            attempt=client.record.attempt + 1,
            prompt_ids=client.record.prompt_ids,
            params=client.record.params,
            emitted_ids=tuple(client.ids),
        )
        client.cancelled = not self.submit_record(client.record)

    @rule(name=consumes(streams))
    def cancel(self, name: StreamId) -> None:
        client = self.clients[name]
        self.scheduler.cancel(name, client.record.attempt)
        client.cancelled = client.end is None

    @rule()
    def schedule(self) -> None:
        step = self.scheduler.schedule()
        if step is not None:
            self.line.send(step)
        elif not self.line.in_flight:
            assert self.scheduler.idle, "nothing is in flight and nobody can move"

    @precondition(lambda self: self.line.in_flight)
    @rule()
    def complete(self) -> None:
        done = self.scheduler.complete(self.line.run())
        for token in done.tokens:
            client = self.clients[token.stream_id]
            assert not client.cancelled
            assert client.end is None
            assert (token.attempt, token.position) == (client.record.attempt, len(client.ids))
            client.ids.append(token.id)
        for end in done.finished:
            client = self.clients[end.stream_id]
            assert not client.cancelled
            assert client.end is None, "a stream ends once"
            assert (end.attempt, end.emitted) == (client.record.attempt, len(client.ids))
            client.end = end
            self.ended.add(end.stream_id)

    @rule(turns=st.integers(1, 60), lag=st.integers(0, 3))
    def run(self, turns: int, lag: int) -> None:
        for _ in range(turns):
            self.schedule()
            if self.line.in_flight > lag:
                self.complete()

    @rule(computed=st.integers(0, 4))
    def lose_line(self, computed: int) -> None:
        """Of what was in flight a rank may have computed any part. What is kept must hold for all
        of them, and `FakeLine` looks into the pages."""
        self.line.lose(computed)
        full_pages = self.scheduler.full_pages
        self.scheduler = self.make()
        self.scheduler.recall(full_pages)
        self.ended.clear()
        for name in self.clients:
            self.resume(name)

    @rule(batches=st.integers(1, 4))
    def fill_with(self, batches: int) -> None:
        self.scheduler.batches_in_flight = batches
        self.line.batches_in_flight = max(batches, self.line.in_flight)

    @invariant()
    def bounds_hold(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.check_integrity()
            assert self.scheduler.in_flight == self.line.in_flight

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for _ in range(60_000):
            if self.scheduler.idle:
                break
            self.schedule()
            if self.line.in_flight:
                self.complete()
        assert self.scheduler.idle
        assert self.line.slots == set()
        self.scheduler.check_integrity()
        assert self.scheduler.pages_free == self.scheduler.pages_total
        for client in self.clients.values():
            self.check_answer(client)

    def check_answer(self, client: Client) -> None:
        first = StreamRecord(
            stream_id=client.record.stream_id,
            attempt=0,
            prompt_ids=client.record.prompt_ids,
            params=client.record.params,
        )
        if client.cancelled and not client.ids:
            return
        ids, reason = answer(first, self.max_context)
        if client.cancelled:
            assert client.ids == ids[: len(client.ids)]
        else:
            assert client.ids == ids
            assert client.end is not None
            assert client.end.reason == reason


SchedulerMachine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, derandomize=True
)
TestRandomTraffic = SchedulerMachine.TestCase
