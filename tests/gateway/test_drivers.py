"""The care for streams, step by step under a clock of the test's own."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import msgspec
import pytest

from paceline.checkpoint.tokenizer import Tokenizer
from paceline.gateway.driver import LiveStream
from paceline.gateway.drivers import Drivers
from paceline.gateway.errors import Overloaded
from paceline.gateway.metrics import Metrics
from paceline.gateway.settings import Settings
from paceline.gateway.streams import Stream
from paceline.gateway.text import StopText
from paceline.transport.errors import LinkFull
from paceline.types.control import Route, Routes
from paceline.types.errors import DeadlineExceeded, TransportError, Unavailable
from paceline.types.ids import Epoch, StreamId
from paceline.types.stream import (
    Cancel,
    Finished,
    FinishReason,
    FromDriver,
    Rejected,
    Renew,
    SamplingParams,
    StreamRecord,
    Submit,
    ToDriver,
    Token,
    Tokens,
    Waiting,
)
from tests.gateway.rig import EOS, MODEL, add_model, view
from tests.gateway.test_routes import route

pytestmark = pytest.mark.anyio

SETTINGS = Settings(stall_s=10, stall_per_token_s=1, link_silence_s=3, max_streams=4)


class FakeLink:
    """Keeps what is sent; hears what the test says."""

    def __init__(self, there: Route) -> None:
        self.route = there
        self.sent: list[ToDriver] = []
        self.silence = 0.0
        self.full = False
        self.closed = False
        self._said: asyncio.Queue[FromDriver | TransportError] = asyncio.Queue()

    def send(self, message: ToDriver) -> None:
        if self.full:
            raise LinkFull("full")
        self.sent.append(message)

    async def receive(self) -> FromDriver:
        message = await self._said.get()
        if isinstance(message, TransportError):
            raise message
        return message

    def close(self) -> None:
        self.closed = True

    async def say(self, message: FromDriver | TransportError) -> None:
        self._said.put_nowait(message)
        for _ in range(5):
            await asyncio.sleep(0)

    @property
    def submitted(self) -> list[StreamRecord]:
        return [message.record for message in self.sent if isinstance(message, Submit)]


class Bench:
    """Drivers without their attendant: the test looks and tells the time."""

    def __init__(self, directory: Path, settings: Settings = SETTINGS) -> None:
        self.now = 100.0
        self.links: list[FakeLink] = []
        self.metrics = Metrics()
        self.drivers = Drivers(self._dial, settings, self.metrics, lambda: self.now)
        self._tokenizer = Tokenizer.load(add_model(directory / "home"))

    def _dial(self, there: Route) -> FakeLink:
        self.links.append(FakeLink(there))
        return self.links[-1]

    def routed(self, *routes: Route, term: int = 1) -> None:
        self.drivers.heed(Routes(routes=routes, instances=(view(),), term=term))

    def carry(self, name: str = "s", timeout_s: float = 1000.0) -> LiveStream:
        stream = Stream(
            stream_id=StreamId(name),
            prompt_ids=(1, 2),
            params=SamplingParams(max_tokens=9, seed=1),
            end_ids=frozenset({EOS}),
            detokenizer=self._tokenizer.detokenizer(),
            stops=StopText(()),
        )
        live = LiveStream(
            stream, model=MODEL, now=self.now, deadline=self.now + timeout_s, wake=lambda: None
        )
        self.drivers.carry([live])
        return live

    def pass_time(self, seconds: float) -> None:
        """Looks twice a second, so that nothing counts as a stall of our own."""
        for _ in range(round(seconds * 2)):
            self.now += 0.5
            self.drivers.look()


def token(attempt: int, position: int, id_: int = 65) -> Token:
    return Token(StreamId("s"), attempt, position, id_)


def attempts(link: FakeLink) -> list[int]:
    return [record.attempt for record in link.submitted]


async def test_patience_doubles_with_each_stall(short: Path) -> None:
    """10 s, and 1 s for each of the two tokens to read; then twice that, and again."""
    bench = Bench(short)
    bench.routed(route())
    bench.carry()
    link = bench.links[0]
    bench.pass_time(12)
    assert attempts(link) == [1]
    bench.pass_time(0.5)
    assert attempts(link) == [1, 2]
    bench.pass_time(24)
    assert attempts(link) == [1, 2]
    bench.pass_time(0.5)
    assert attempts(link) == [1, 2, 3]
    assert [m for m in link.sent if isinstance(m, Cancel)] == [
        Cancel(StreamId("s"), 1),
        Cancel(StreamId("s"), 2),
    ]


async def test_progress_renews_patience(short: Path) -> None:
    bench = Bench(short)
    bench.routed(route())
    bench.carry()
    link = bench.links[0]
    for position in range(4):
        bench.pass_time(9)
        await link.say(Tokens((token(1, position),)))
    assert attempts(link) == [1]


async def test_who_waits_for_others_keeps_its_place(short: Path) -> None:
    bench = Bench(short)
    bench.routed(route())
    bench.carry()
    link = bench.links[0]
    for _ in range(5):
        bench.pass_time(9)
        await link.say(Waiting(((StreamId("s"), 1),)))
    assert attempts(link) == [1]
    bench.pass_time(9)
    await link.say(Waiting(((StreamId("s"), 0), (StreamId("another"), 1))))
    bench.pass_time(3.5)
    assert attempts(link) == [1, 2]


async def test_a_word_about_an_earlier_attempt_changes_nothing(short: Path) -> None:
    bench = Bench(short)
    bench.routed(route())
    live = bench.carry()
    link = bench.links[0]
    bench.pass_time(13)
    assert attempts(link) == [1, 2]
    await link.say(Rejected(StreamId("s"), 1, "unavailable", "no", retry=True))
    await link.say(Rejected(StreamId("s"), 1, "invalid_request", "no", retry=False))
    for reason in FinishReason:
        end = Finished(stream_id=StreamId("s"), attempt=1, emitted=0, reason=reason)
        await link.say(Tokens((token(1, 0),), (end,)))
    bench.pass_time(1)
    assert attempts(link) == [1, 2]
    assert not live.over
    assert live.stream.emitted_ids == []


async def test_a_driver_that_frees_a_stream_unasked_gets_it_again(short: Path) -> None:
    bench = Bench(short)
    bench.routed(route())
    live = bench.carry()
    link = bench.links[0]
    end = Finished(stream_id=StreamId("s"), attempt=1, emitted=1, reason=FinishReason.CANCELLED)
    await link.say(Tokens((token(1, 0),), (end,)))
    bench.drivers.look()
    assert link.submitted[-1].emitted_ids == (65,)
    assert not live.over


async def test_a_driver_that_gives_up_on_a_stream_fails_it(short: Path) -> None:
    bench = Bench(short)
    bench.routed(route())
    live = bench.carry()
    end = Finished(
        stream_id=StreamId("s"),
        attempt=1,
        emitted=0,
        reason=FinishReason.ERROR,
        message="its numbers are not finite",
    )
    await bench.links[0].say(Tokens((), (end,)))
    assert "not finite" in str(live.error)


async def test_an_end_without_tokens_is_an_end(short: Path) -> None:
    """The driver's answer to a record that was already complete."""
    bench = Bench(short)
    bench.routed(route())
    live = bench.carry()
    end = Finished(stream_id=StreamId("s"), attempt=1, emitted=0, reason=FinishReason.STOP)
    await bench.links[0].say(Tokens((), (end,)))
    assert live.stream.finish_reason is FinishReason.STOP
    assert live.driver is None
    assert not any(isinstance(message, Cancel) for message in bench.links[0].sent)


async def test_a_full_link_is_tried_again(short: Path) -> None:
    bench = Bench(short)
    bench.routed(route())
    bench.links[0].full = True
    live = bench.carry()
    assert live.driver is None
    bench.links[0].full = False
    assert not bench.drivers.look()
    assert len(bench.links[0].submitted) == 1


async def test_a_broken_link_is_dialled_again_while_its_route_stands(short: Path) -> None:
    bench = Bench(short)
    bench.routed(route())
    bench.carry()
    await bench.links[0].say(TransportError("nonsense"))
    bench.pass_time(1)
    assert bench.links[0].closed
    assert attempts(bench.links[1]) == [2]


async def test_our_own_stall_blames_no_driver(short: Path) -> None:
    bench = Bench(short)
    bench.routed(route())
    bench.carry()
    bench.links[0].silence = 5.0
    bench.now += 5.0
    bench.drivers.look()
    assert attempts(bench.links[0]) == [1]
    assert not any(isinstance(message, Cancel) for message in bench.links[0].sent)
    bench.pass_time(0.5)
    assert any(isinstance(message, Cancel) for message in bench.links[0].sent)


async def test_links_of_lines_that_are_over_are_closed(short: Path) -> None:
    bench = Bench(short)
    bench.routed(route())
    live = bench.carry()
    bench.routed(route(epoch=Epoch(1, 2)))
    bench.pass_time(1)
    assert [link.closed for link in bench.links] == [True, False]
    assert attempts(bench.links[1]) == [2]
    bench.drivers.drop(live)
    bench.routed()
    bench.pass_time(1)
    assert bench.links[1].closed


async def test_a_route_to_nowhere_costs_the_others_nothing(short: Path) -> None:
    bench = Bench(short)
    dial = bench._dial

    def picky(there: Route) -> FakeLink:
        if there.instance == "i-1":
            raise ValueError("no such transport")
        return dial(there)

    bench.drivers = Drivers(picky, SETTINGS, bench.metrics, lambda: bench.now)
    bench.routed(route("i-1"), route("i-2"))
    bench.carry()
    bench.pass_time(1)
    assert [link.route.instance for link in bench.links] == ["i-2"]
    assert attempts(bench.links[0]) == [1]


async def test_streams_are_renewed_with_their_current_attempt(short: Path) -> None:
    bench = Bench(short)
    bench.routed(route())
    bench.carry()
    bench.pass_time(15)
    renewed = [message.streams for message in bench.links[0].sent if isinstance(message, Renew)]
    assert [attempt for ((_, attempt),) in renewed] == [1, 1, 2]


async def test_a_new_stream_waits_less_for_a_silent_driver_than_one_that_has_begun(
    short: Path,
) -> None:
    bench = Bench(short)
    bench.routed(route())
    begun = bench.carry()
    await bench.links[0].say(Tokens((token(1, 0),)))
    bench.links[0].silence = 9.0
    new = bench.carry("new")
    bench.pass_time(SETTINGS.route_wait_s)
    assert not new.over
    bench.pass_time(1)
    assert isinstance(new.error, Unavailable)
    bench.pass_time(60)
    assert not begun.over
    bench.links[0].silence = 0.0
    bench.drivers.look()
    assert bench.links[0].submitted[-1].emitted_ids == (65,)


@pytest.mark.parametrize(("made", "error"), [(0, Unavailable), (1, DeadlineExceeded)])
async def test_the_deadline_ends_a_paused_stream(short: Path, made: int, error: type) -> None:
    """One that has not begun may be sent again later."""
    bench = Bench(short)
    bench.routed()
    live = bench.carry(timeout_s=20)
    live.stream.emitted_ids += [65] * made
    bench.pass_time(19.5)
    assert not live.over
    bench.pass_time(0.5)
    assert isinstance(live.error, error)


async def test_a_bound_on_streams_and_a_stop(short: Path) -> None:
    bench = Bench(short)
    bench.routed(route())
    lives = [bench.carry(name) for name in "abcd"]
    with pytest.raises(Overloaded):
        bench.carry("e")
    bench.drivers.stop()
    assert all(isinstance(live.error, Unavailable) for live in lives)
    with pytest.raises(Unavailable, match="stopping"):
        bench.carry("f")
    assert bench.drivers.streams == 0
    cancelled = [m.stream_id for m in bench.links[0].sent if isinstance(m, Cancel)]
    assert sorted(cancelled) == list("abcd")


async def test_refusals_back_off(short: Path) -> None:
    bench = Bench(short, msgspec.structs.replace(SETTINGS, retry_s=1, retry_max_s=4))
    bench.routed(route())
    bench.carry()
    link, sent_at = bench.links[0], []
    while len(link.submitted) < 6:
        if len(link.submitted) > len(sent_at):
            sent_at.append(bench.now)
            refusal = Rejected(StreamId("s"), link.submitted[-1].attempt, "unavailable", "", True)
            await link.say(refusal)
        bench.pass_time(0.5)
    pauses = [b - a for a, b in itertools.pairwise(sent_at)]
    assert pauses == sorted(pauses)
    assert pauses[0] < pauses[-1]
    assert max(pauses) <= 5
