"""What a line computed is used again where every rank still has it, and only there."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace

from paceline.checkpoint.facts import model_facts
from paceline.runner.kv_memory import KvMemory
from paceline.transport.front import AsyncFrontClient
from paceline.types.model import PAGE_TOKENS
from paceline.types.states import RunnerState
from paceline.types.stream import SamplingParams, StreamRecord, Submit, Tokens
from tests.support.runners import WAIT_S, Runners, place
from tests.support.small import SMALL, write_small

RANKS = 2
PROMPT, HEARD, ALL = 200, 50, 90
FULL = (PROMPT + HEARD - 1) // PAGE_TOKENS * PAGE_TOKENS
"""Of the ids that a stream comes back with, those in full pages."""
WARM_UP = 1


# --- the rule, by itself -------------------------------------------------------------------------


def kept(pages: dict[int, bytes], *, driver: str = "A") -> KvMemory:
    memory = KvMemory()
    memory.written_by(driver)
    memory.left_by(driver, pages)
    return memory


def test_pages_are_kept_where_all_ranks_name_the_same_driver() -> None:
    assert kept({3: b"k"}).take({"A"}) == {3: b"k"}
    assert kept({3: b"k"}).take({"A", ""}) == {}, "one has loaded anew"
    assert kept({3: b"k"}).take({"A", "B"}) == {}, "one has served another driver since"
    assert kept({3: b"k"}).take({"B"}) == {}


def test_a_line_that_breaks_before_its_first_step_loses_nothing() -> None:
    memory = kept({3: b"k"})
    memory.take({"A"})
    memory.left_by("B", {})
    assert memory.take({"A"}) == {3: b"k"}
    memory.written_by("B")
    assert memory.take({"A"}) == {}


def test_the_first_step_of_a_line_takes_the_place_of_all_before() -> None:
    memory = kept({3: b"k"})
    memory.written_by("B")
    assert (memory.generation, memory.take({"B"})) == ("B", {})


# --- real runners --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runners]:
    home = tmp_path_factory.mktemp("home")
    directory = write_small(home / "models")
    placement = place(model_facts(directory, SMALL), RANKS)
    with Runners(home, SMALL, placement) as runners:
        runners.load_all()
        runners.join_line()
        yield runners


RECORD = StreamRecord(
    stream_id="s",
    attempt=0,
    prompt_ids=tuple(1000 + 7 * i for i in range(PROMPT)),
    params=SamplingParams(max_tokens=ALL, seed=5, temperature=0.9, ignore_eos=True),
)


@pytest.fixture(scope="module")
def undisturbed(line: Runners) -> list[int]:
    record = replace(RECORD, stream_id="undisturbed")
    return [token.id for token in line.generate([record])["undisturbed"][0]]


async def listen(line: Runners, record: StreamRecord) -> list[int]:
    """Its first ids; the driver goes on with it."""
    facts = line.seen(0)
    assert facts is not None
    assert facts.offer is not None
    client = AsyncFrontClient(facts.offer.front_address, facts.offer.public_key, line.keys)
    ids: list[int] = []
    try:
        client.send(Submit(record))
        while len(ids) < HEARD:
            message = await client.receive()
            if isinstance(message, Tokens):
                ids += [token.id for token in message.tokens]
    finally:
        client.close()
    return ids[:HEARD]


def begin(line: Runners) -> StreamRecord:
    """A stream, to be gone on with after what it was heard to say."""
    ids = asyncio.run(asyncio.wait_for(listen(line, RECORD), WAIT_S))
    return replace(RECORD, attempt=1, emitted_ids=tuple(ids))


def finish(line: Runners, record: StreamRecord) -> tuple[list[int], int]:
    """All its ids, and how many of those it came with were computed."""
    (tokens, _), *_ = line.generate([record]).values()
    expected = len(record.prompt_ids) + len(record.emitted_ids) + WARM_UP

    def told() -> bool:
        facts = line.seen(0)
        load = facts and facts.load
        return bool(load and load.prefix_queries == expected and load.running == 0)

    line.until(told, "the driver's counts")
    load = line.seen(0).load
    ids = [*record.emitted_ids, *(token.id for token in tokens)]
    return ids, load.prefix_queries - WARM_UP - load.prefix_hits


def the_link_breaks(line: Runners) -> None:
    line.processes[1].send_signal(signal.SIGSTOP)
    line.until(lambda: line.seen(0).state is RunnerState.LOADED, "rank 0 to leave the line")
    line.processes[1].send_signal(signal.SIGCONT)
    line.all_in(RunnerState.LOADED)


def nothing_happens(line: Runners) -> None:
    """Another epoch of the same ranks."""


def a_rank_is_replaced(line: Runners) -> None:
    line.processes[1].kill()
    line.processes[1].wait()
    line.replace(1)
    line.outcome(1, line.load(1))


def a_rank_loads_anew(line: Runners) -> None:
    the_link_breaks(line)
    line.n += 1
    line.outcome(1, line.load(1))


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("fault", "computed"),
    [
        (nothing_happens, PROMPT + HEARD - FULL),
        (the_link_breaks, PROMPT + HEARD - FULL),
        (a_rank_loads_anew, PROMPT + HEARD),
        (a_rank_is_replaced, PROMPT + HEARD),
    ],
)
def test_what_is_computed_again(
    line: Runners, undisturbed: list[int], fault: Callable[[Runners], None], computed: int
) -> None:
    line.join_line()
    begun = begin(line)
    fault(line)
    line.join_line()
    assert finish(line, begun) == (undisturbed, computed)
