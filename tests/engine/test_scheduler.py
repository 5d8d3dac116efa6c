from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from paceline.engine import scheduler as scheduler_module
from paceline.engine.scheduler import Completion, Scheduler
from paceline.engine.stepcost import STALE_STEPS, StepCost
from paceline.types.errors import EngineError, InvalidRequest, Unavailable
from paceline.types.ids import StreamId
from paceline.types.step import Sampled, SampledToken, Step
from paceline.types.stream import Finished, FinishReason, SamplingParams, StreamRecord
from tests.engine.fake_line import EOS, VOCAB, FakeLine, answer, next_id


def make(**bounds: Any) -> Scheduler:
    defaults = {"pages": 32, "max_context": 1024, "vocab_size": VOCAB, "eos_ids": frozenset({EOS})}
    return Scheduler(**(defaults | bounds))


def record(name: str = "s", attempt: int = 0, prompt: int = 3, **changes: Any) -> StreamRecord:
    emitted = changes.pop("emitted_ids", ())
    params = {"max_tokens": 4, "seed": 0, "ignore_eos": True} | changes
    return StreamRecord(
        stream_id=StreamId(name),
        attempt=attempt,
        prompt_ids=tuple((i * 7 + len(name)) % (VOCAB - 1) + 1 for i in range(prompt)),
        params=SamplingParams(**params),
        emitted_ids=tuple(emitted),
    )


def line_of(batches: int = 1, budget: int = 512) -> FakeLine:
    return FakeLine(row_budget=budget, batches_in_flight=batches)


def fill(scheduler: Scheduler, line: FakeLine, limit: int = 100) -> list[Step]:
    steps: list[Step] = []
    while len(steps) < limit and (step := scheduler.schedule()) is not None:
        line.send(step)
        steps.append(step)
    return steps


def drain(scheduler: Scheduler, line: FakeLine, at_once: bool = True) -> list[Completion]:
    """Runs to the end, with as many steps in flight as allowed or with one."""
    completions = []
    for _ in range(4000):
        fill(scheduler, line, limit=100 if at_once else 1)
        if not line.in_flight:
            break
        completions.append(scheduler.complete(line.run()))
    assert scheduler.idle
    scheduler.check_integrity()
    assert scheduler.pages_free == scheduler.pages_total
    return completions


def emitted(completions: list[Completion], name: str = "s") -> list[int]:
    tokens = [t for done in completions for t in done.tokens if t.stream_id == name]
    start = tokens[0].position if tokens else 0
    assert [token.position for token in tokens] == list(range(start, start + len(tokens)))
    return [token.id for token in tokens]


def ends(completions: list[Completion]) -> list[Finished]:
    return [end for done in completions for end in done.finished]


# --- the order of work ---------------------------------------------------------------------------


def test_nothing_to_do_gives_no_step() -> None:
    scheduler = make()
    assert scheduler.schedule() is None
    assert scheduler.idle


def test_one_stream_from_prompt_to_end() -> None:
    scheduler = make()
    wanted = record(max_tokens=5)
    assert scheduler.submit(wanted) is None
    completions = drain(scheduler, line_of())
    assert emitted(completions) == answer(wanted, 1024)[0]
    assert ends(completions) == [
        Finished(stream_id=wanted.stream_id, attempt=0, emitted=5, reason=FinishReason.LENGTH)
    ]


def test_the_last_word_to_the_ranks_is_one_step_that_frees_the_slot() -> None:
    scheduler = make()
    scheduler.submit(record(max_tokens=1))
    first = scheduler.schedule()
    assert first is not None
    assert [admission.slot for admission in first.admitted] == [first.spans[0].slot]
    scheduler.complete(Sampled(number=first.number, tokens=(SampledToken(0, 0, 5),)))
    assert not scheduler.idle
    last = scheduler.schedule()
    assert last is not None
    assert (last.freed, last.spans, last.admitted) == ((0,), (), ())
    assert scheduler.schedule() is None
    scheduler.complete(Sampled(number=last.number))
    assert scheduler.schedule() is None
    assert scheduler.idle


def test_decode_rows_come_before_prompt_chunks_under_the_budget() -> None:
    scheduler = make(row_budget=10)
    line = line_of(budget=10)
    scheduler.submit(record("a", prompt=4, max_tokens=50))
    fill(scheduler, line)
    scheduler.complete(line.run())
    scheduler.submit(record("b", prompt=24))
    sizes = []
    for _ in range(4):
        (step,) = fill(scheduler, line)
        sizes.append([(span.count, span.sample) for span in step.spans])
        scheduler.complete(line.run())
    chunk, last, decode = (9, False), (6, True), (1, True)
    assert sizes == [[decode, chunk], [decode, chunk], [decode, last], [decode, decode]]


def test_beside_a_long_prompt_those_who_decode_have_a_step_of_their_own_now_and_then() -> None:
    cost, line = StepCost(512), line_of()
    scheduler = make(cost=cost)
    scheduler.submit(record("a", max_tokens=200))
    sizes = []
    for _ in range(STALE_STEPS + 3):
        (step,) = fill(scheduler, line)
        sizes.append([span.count for span in step.spans])
        decoding = sum(span.count == 1 for span in step.spans)
        prompt = step.rows - decoding
        cost.measured(decoding, prompt, 0.01 + prompt)
        scheduler.complete(line.run())
        if len(sizes) == 2:
            scheduler.submit(record("b", prompt=900))
    assert sizes[:2] == [[3], [1]]
    assert all(count > 1 for _, count in sizes[2:-1])
    assert sizes[-1] == [1], "the prompt waits for one step"


def test_chunks_of_one_prompt_follow_each_other_in_flight() -> None:
    scheduler = make(row_budget=16, batches_in_flight=3)
    line = line_of(batches=3, budget=16)
    scheduler.submit(record(prompt=40))
    steps = fill(scheduler, line)
    assert [(step.spans[0].start, step.spans[0].count) for step in steps] == [
        (0, 16),
        (16, 16),
        (32, 8),
    ]
    assert [bool(step.admitted) for step in steps] == [True, False, False]
    assert emitted(drain(scheduler, line)) == answer(record(prompt=40), 1024)[0]


def test_decode_rows_are_spread_over_the_batches_in_flight() -> None:
    scheduler = make(batches_in_flight=4)
    line = line_of(batches=4)
    for i in range(8):
        scheduler.submit(record(f"s{i}", max_tokens=60))
    fill(scheduler, line)
    for _ in range(20):
        scheduler.complete(line.run())
        fill(scheduler, line)
    assert line.in_flight == 4
    for _ in range(8):
        scheduler.complete(line.run())
        (step,) = fill(scheduler, line)
        assert len(step.spans) == 2


def test_who_was_stepped_least_recently_is_next() -> None:
    scheduler = make(batches_in_flight=4)
    line = line_of(4)
    for i in range(8):
        scheduler.submit(record(f"s{i}", max_tokens=10))
    fill(scheduler, line, limit=1)
    scheduler.complete(line.run())
    for _ in range(4 * 5):
        fill(scheduler, line, limit=1)
        scheduler.complete(line.run())
    assert [line.emitted[slot] for slot in range(8)] == [6] * 8


def test_a_step_for_freed_slots_alone_waits_for_an_empty_line() -> None:
    scheduler = make(batches_in_flight=2)
    line = line_of(batches=2)
    for name in ("a", "b"):
        scheduler.submit(record(name, max_tokens=50))
    fill(scheduler, line)
    scheduler.complete(line.run())
    fill(scheduler, line)
    assert line.in_flight == 2
    scheduler.cancel(StreamId("a"), 0)
    scheduler.complete(line.run())
    scheduler.cancel(StreamId("b"), 0)
    assert scheduler.schedule() is None
    scheduler.complete(line.run())
    step = scheduler.schedule()
    assert step is not None
    assert sorted(step.freed) == [0, 1]


def test_who_waits_is_served_in_order() -> None:
    scheduler = make(max_running=2)
    line = line_of()
    for i in range(6):
        scheduler.submit(record(f"s{i}", prompt=1 + i % 3))
    assert (scheduler.running, scheduler.waiting) == (0, 6)
    fill(scheduler, line)
    assert (scheduler.running, scheduler.waiting) == (2, 4)
    names = [end.stream_id for end in ends(drain(scheduler, line))]
    assert names == [f"s{i}" for i in range(6)]


# --- where streams end ---------------------------------------------------------------------------


def natural_end(**changes: Any) -> tuple[StreamRecord, list[int]]:
    """A record whose answer meets the eos after some tokens."""
    for prompt in range(1, 500):
        candidate = record(prompt=prompt, max_tokens=30, **changes)
        ids, reason = answer(candidate, 1024)
        if reason is FinishReason.STOP and len(ids) > 3:
            return candidate, ids
    raise AssertionError("no prompt led to an eos")


def test_the_eos_is_emitted_and_ends_the_stream() -> None:
    wanted, ids = natural_end(ignore_eos=False)
    scheduler = make()
    scheduler.submit(wanted)
    completions = drain(scheduler, line_of())
    assert emitted(completions) == ids
    assert ids[-1] == EOS
    (end,) = ends(completions)
    assert (end.reason, end.emitted) == (FinishReason.STOP, len(ids))


def test_ignore_eos_goes_on_and_stop_token_ids_still_stop() -> None:
    with_eos, ids = natural_end(ignore_eos=False)
    changes = {"prompt": len(with_eos.prompt_ids), "max_tokens": 30, "ignore_eos": True}
    scheduler = make()
    scheduler.submit(record(**changes))
    assert emitted(drain(scheduler, line_of()))[: len(ids) + 1][:-1] == ids
    scheduler = make()
    scheduler.submit(record(stop_token_ids=(ids[1],), **changes))
    completions = drain(scheduler, line_of())
    assert emitted(completions) == ids[: ids.index(ids[1]) + 1]
    assert ends(completions)[0].reason is FinishReason.STOP


def test_the_end_of_the_context_ends_the_stream() -> None:
    scheduler = make(max_context=10)
    scheduler.submit(record(prompt=7, max_tokens=100))
    completions = drain(scheduler, line_of())
    assert len(emitted(completions)) == 3
    assert ends(completions)[0].reason is FinishReason.LENGTH


# --- resume --------------------------------------------------------------------------------------


def test_a_resumed_stream_goes_on_at_its_position() -> None:
    whole = record(prompt=70, max_tokens=20)
    ids, _ = answer(whole, 1024)
    for cut in range(1, 20):
        scheduler = make()
        scheduler.submit(record(prompt=70, max_tokens=20, attempt=cut, emitted_ids=ids[:cut]))
        completions = drain(scheduler, line_of())
        tokens = [token for done in completions for token in done.tokens]
        assert [(t.attempt, t.position, t.id) for t in tokens] == [
            (cut, position, ids[position]) for position in range(cut, 20)
        ]
        assert ends(completions)[0].emitted == 20


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"emitted_ids": (5, 6, 7, 8)}, FinishReason.LENGTH),
        ({"emitted_ids": (5, EOS), "ignore_eos": False}, FinishReason.STOP),
        ({"emitted_ids": (5, 9), "stop_token_ids": (9,)}, FinishReason.STOP),
        ({"prompt": 30, "emitted_ids": (5, 6)}, FinishReason.LENGTH),
    ],
)
def test_a_record_that_had_ended_gets_its_end_at_once(
    changes: dict[str, Any], reason: FinishReason
) -> None:
    scheduler = make(max_context=32)
    ended = record(attempt=1, **changes)
    end = scheduler.submit(ended)
    assert end is not None
    assert (end.attempt, end.emitted, end.reason) == (1, len(ended.emitted_ids), reason)
    assert scheduler.idle
    assert scheduler.schedule() is None


# --- what is said twice, late or too much --------------------------------------------------------


def test_repeated_and_older_attempts_change_nothing() -> None:
    scheduler = make()
    line = line_of()
    scheduler.submit(record(attempt=2))
    for attempt in (0, 1, 2):
        scheduler.submit(record(attempt=attempt, prompt=9))
    assert scheduler.waiting == 1
    completions = drain(scheduler, line)
    assert emitted(completions) == answer(record(), 1024)[0]
    for attempt in (0, 1, 2):
        scheduler.submit(record(attempt=attempt))
    assert scheduler.idle


def test_a_higher_attempt_cancels_the_lower() -> None:
    scheduler = make()
    line = line_of()
    scheduler.submit(record(max_tokens=6))
    fill(scheduler, line)
    scheduler.complete(line.run())
    fill(scheduler, line)
    ids, _ = answer(record(max_tokens=6), 1024)
    scheduler.submit(record(attempt=1, max_tokens=6, emitted_ids=ids[:1]))
    completions = drain(scheduler, line)
    assert {token.attempt for done in completions for token in done.tokens} == {1}
    assert emitted(completions) == ids[1:]
    assert [end.attempt for end in ends(completions)] == [1]


@pytest.mark.parametrize("attempt", [3, 4])
def test_a_cancelled_stream_gives_nothing_more_and_its_pages_return(attempt: int) -> None:
    scheduler = make(batches_in_flight=2, row_budget=8)
    line = line_of(batches=2, budget=8)
    scheduler.submit(record(attempt=3, prompt=100))
    fill(scheduler, line)
    scheduler.cancel(StreamId("s"), attempt)
    assert scheduler.pages_free < scheduler.pages_total
    assert ends(drain(scheduler, line)) == []
    scheduler.submit(record(attempt=3))
    assert scheduler.idle


def test_a_cancel_of_an_older_attempt_changes_nothing() -> None:
    scheduler = make()
    scheduler.submit(record(attempt=3))
    scheduler.cancel(StreamId("s"), 2)
    assert len(emitted(drain(scheduler, line_of()))) == 4


def test_a_cancel_that_comes_first_still_holds() -> None:
    scheduler = make()
    scheduler.cancel(StreamId("s"), 1)
    scheduler.submit(record(attempt=1))
    assert scheduler.idle
    scheduler.submit(record(attempt=2))
    assert scheduler.waiting == 1
    scheduler.cancel(StreamId("s"), 2)
    assert scheduler.idle


def test_the_memory_of_ended_streams_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_module, "MAX_ENDED", 3)
    scheduler = make()
    for i in range(5):
        scheduler.cancel(StreamId(f"s{i}"), 0)
    for i in range(5):
        scheduler.submit(record(f"s{i}"))
    assert scheduler.waiting == 2


def test_a_full_queue_is_unavailable_and_the_same_attempt_may_come_again() -> None:
    scheduler = make(max_waiting=2)
    line = line_of()
    for name in ("a", "b"):
        scheduler.submit(record(name))
    with pytest.raises(Unavailable, match="2 streams are waiting"):
        scheduler.submit(record("c"))
    fill(scheduler, line)
    scheduler.submit(record("c"))
    assert len(ends(drain(scheduler, line))) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": 128}, "prompt has 128 tokens and the context holds 128"),
        ({"prompt": 60, "max_tokens": 6}, "may need 65 tokens .* has 64"),
        ({"prompt": 0}, "at least one token"),
        ({"temperature": 3.0}, "temperature must be a finite number from 0 to 2"),
        ({"emitted_ids": (VOCAB,)}, "emitted_ids: .* from 0 to 96, not 97"),
    ],
)
def test_what_can_never_run_is_refused(changes: dict[str, Any], words: str) -> None:
    scheduler = make(pages=1, max_context=128)
    with pytest.raises(InvalidRequest, match=words):
        scheduler.submit(record(**changes))
    assert scheduler.idle


def test_what_just_fits_runs() -> None:
    scheduler = make(pages=1, max_context=128)
    scheduler.submit(record(prompt=60, max_tokens=5))
    assert len(emitted(drain(scheduler, line_of()))) == 5


@pytest.mark.parametrize(
    "bound", ["pages", "max_context", "row_budget", "max_running", "batches_in_flight"]
)
def test_a_scheduler_without_room_is_refused(bound: str) -> None:
    with pytest.raises(EngineError, match=bound):
        make(**{bound: 0})


# --- what comes back -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampled",
    [
        Sampled(number=1, tokens=(SampledToken(0, 0, 5),)),
        Sampled(number=-1),
        Sampled(number=0),
        Sampled(number=0, tokens=(SampledToken(1, 0, 5),)),
        Sampled(number=0, tokens=(SampledToken(0, 1, 5),)),
        Sampled(number=0, tokens=(SampledToken(0, 0, VOCAB),)),
        Sampled(number=0, tokens=(SampledToken(0, 0, 5), SampledToken(0, 0, 5))),
    ],
)
def test_an_answer_to_something_else_is_refused_and_changes_nothing(sampled: Sampled) -> None:
    scheduler = make(batches_in_flight=2, row_budget=4)
    scheduler.submit(record("a", prompt=4))
    scheduler.submit(record("b", prompt=4))
    assert scheduler.schedule() is not None
    assert scheduler.schedule() is not None
    with pytest.raises(EngineError, match="step"):
        scheduler.complete(sampled)
    done = scheduler.complete(Sampled(number=0, tokens=(SampledToken(0, 0, 5),)))
    assert [token.id for token in done.tokens] == [5]
    with pytest.raises(EngineError, match="step 0 came back before step 1"):
        scheduler.complete(Sampled(number=0, tokens=(SampledToken(0, 0, 5),)))


def test_an_answer_to_nothing_is_refused() -> None:
    with pytest.raises(EngineError, match="none is in flight"):
        make().complete(Sampled(number=0))


# --- pages ---------------------------------------------------------------------------------------


def test_pages_of_a_cancelled_stream_wait_for_the_steps_that_name_them() -> None:
    scheduler = make(pages=2, batches_in_flight=2, row_budget=32)
    line = line_of(batches=2, budget=32)
    scheduler.submit(record("a", prompt=100))
    fill(scheduler, line)
    scheduler.cancel(StreamId("a"), 0)
    scheduler.submit(record("b", prompt=100))
    scheduler.complete(line.run())
    assert scheduler.pages_free == 0
    assert fill(scheduler, line) == []
    scheduler.complete(line.run())
    assert scheduler.pages_free == 2
    assert emitted(drain(scheduler, line), "b") == answer(record("b", prompt=100), 1024)[0]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("batches", [1, 2, 3])
def test_when_pages_run_out_the_last_comer_gives_way_and_loses_nothing(
    batches: int, at_once: bool
) -> None:
    scheduler = make(pages=8, batches_in_flight=batches)
    line = line_of(batches)
    records = [record(f"s{i}", prompt=40 + i, max_tokens=200) for i in range(6)]
    for each in records:
        scheduler.submit(each)
    completions = drain(scheduler, line, at_once=at_once)
    for each in records:
        assert emitted(completions, each.stream_id) == answer(each, 1024)[0]
    prompts = [admission.prompt_ids for admission in line.admissions]
    assert len(prompts) > len(records), "nobody had to give way: the test is too easy"
    assert prompts.count(records[0].prompt_ids) == 1, "the oldest gave way"


def test_who_gave_way_waits_at_the_head_of_the_queue() -> None:
    scheduler = make(pages=8)
    line = line_of()
    for i in range(8):
        scheduler.submit(record(f"s{i}", prompt=60, max_tokens=200))
    completions = drain(scheduler, line)
    assert len(line.admissions) > 8
    assert [end.stream_id for end in ends(completions)] == [f"s{i}" for i in range(8)]


def test_one_may_give_way_after_it_made_room_for_itself_in_the_same_step() -> None:
    scheduler = make(pages=5, batches_in_flight=2)
    line = line_of(2)
    for name, prompt in (("a", 63), ("b", 64), ("c", 64)):
        scheduler.submit(record(name, prompt=prompt, max_tokens=5))
    shares = []
    for _ in range(3):
        (step,) = fill(scheduler, line, limit=1)
        shares.append([span.slot for span in step.spans])
        scheduler.complete(line.run())
    assert shares == [[0, 1, 2], [0, 1], [0]]
    assert len(ends(drain(scheduler, line))) == 3


def test_a_newcomer_leaves_a_page_for_each_that_runs() -> None:
    scheduler = make(pages=3)
    line = line_of()
    scheduler.submit(record("a", prompt=60, max_tokens=60))
    fill(scheduler, line)
    scheduler.submit(record("b", prompt=100))
    scheduler.complete(line.run())
    fill(scheduler, line)
    assert (scheduler.running, scheduler.waiting, scheduler.pages_free) == (1, 1, 2)
    assert len(ends(drain(scheduler, line))) == 2
    assert len(line.admissions) == 2


def test_the_fake_model_is_not_trivial() -> None:
    assert len({next_id([1] * n) for n in range(1, 99)}) > 10
    assert len(set(own_words(99))) > 10


# --- guesses -------------------------------------------------------------------------------------


def test_guesses_bring_the_same_tokens_in_fewer_steps() -> None:
    steps: dict[int, int] = {}
    for guess_rows in (0, 16):
        scheduler, line = make(guess_rows=guess_rows), line_of()
        asked = record(max_tokens=300)
        scheduler.submit(asked)
        assert emitted(drain(scheduler, line)) == answer(asked, 1024)[0]
        steps[guess_rows] = line.last_number
    assert steps[16] < 0.8 * steps[0]
    assert 0 < scheduler.guesses_right < scheduler.guesses_made
    assert scheduler.guesses_right >= steps[0] - steps[16]


def test_rows_of_guesses_are_shared_out_and_end_where_many_decode() -> None:
    for streams, most in ((1, 7), (4, 3), (8, 1), (9, 0)):
        scheduler, line = make(guess_rows=16, pages=99), line_of()
        for i in range(streams):
            scheduler.submit(record(name=f"s{i}", max_tokens=200))
        found: set[int] = set()
        while not scheduler.idle:
            (step,) = fill(scheduler, line)
            found |= {len(span.guesses) for span in step.spans}
            assert len(step.spans) == streams
            if scheduler.complete(line.run()).finished:
                break
        assert max(found) == most


def own_words(count: int) -> tuple[int, ...]:
    """As the model goes on by itself: it repeats itself, and so is easy to guess."""
    ids = [1, 2]
    while len(ids) < count:
        ids.append(next_id(ids))
    return tuple(ids)


@pytest.mark.parametrize("most", range(1, 12))
def test_nothing_is_guessed_that_there_is_no_room_for(most: int) -> None:
    for bounds in ({}, {"max_context": 60 + most}):
        scheduler, line = make(guess_rows=16, **bounds), line_of()
        asked = record(prompt=60, max_tokens=200 if bounds else most)
        asked = replace(asked, prompt_ids=own_words(60))
        scheduler.submit(asked)
        fed = 0
        while not scheduler.idle:
            for step in fill(scheduler, line):
                fed = max([fed, *(span.start + span.count for span in step.spans)])
            scheduler.complete(line.run())
        assert fed == 60 + most - 1


def test_guesses_take_no_page_from_anybody() -> None:
    """Two streams and room for one: whoever gives way does so for ids, not for guesses."""
    plain, guessing = make(pages=3), make(pages=3, guess_rows=16)
    for scheduler in (plain, guessing):
        line = line_of()
        for name in ("a", "b"):
            scheduler.submit(replace(record(name=name, max_tokens=70), prompt_ids=own_words(50)))
        done = drain(scheduler, line)
        assert len(line.admissions) == 3
        assert len(emitted(done, "a")) == len(emitted(done, "b")) == 70
