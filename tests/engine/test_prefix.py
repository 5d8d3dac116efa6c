"""Streams that begin alike compute what they share once. Tokens computed are counted."""

from __future__ import annotations

import pytest

from paceline.engine.prefix import KeyChain
from paceline.types.ids import StreamId
from paceline.types.model import PAGE_TOKENS
from paceline.types.stream import SamplingParams, StreamRecord
from tests.engine.fake_line import VOCAB, FakeLine, answer
from tests.engine.test_scheduler import drain, emitted, fill, line_of, make


def telling(name: str, prompt: list[int], **changes: object) -> StreamRecord:
    emitted_ids = changes.pop("emitted_ids", ())
    params = {"max_tokens": 1, "seed": 0, "ignore_eos": True} | changes
    return StreamRecord(
        stream_id=StreamId(name), attempt=0, prompt_ids=tuple(prompt),
        params=SamplingParams(**params), emitted_ids=tuple(emitted_ids),
    )  # fmt: skip


def tale(length: int, start: int = 1) -> list[int]:
    return [(start + 7 * i) % VOCAB for i in range(length)]


def computed(line: FakeLine, before: int = 0) -> int:
    return line.computed - before


@pytest.mark.parametrize(("prompt", "again"), [(63, 63), (64, 64), (65, 1), (128, 64), (200, 8)])
def test_the_same_prompt_again_computes_what_its_full_pages_do_not_hold(
    prompt: int, again: int
) -> None:
    scheduler, line = make(), line_of()
    for name, wanted in (("first", prompt), ("second", again)):
        before = line.computed
        scheduler.submit(telling(name, tale(prompt)))
        completions = drain(scheduler, line)
        assert emitted(completions, name) == answer(telling(name, tale(prompt)), 1024)[0]
        assert computed(line, before) == wanted
    assert (scheduler.prefix_queries, scheduler.prefix_hits) == (2 * prompt, prompt - again)


def test_what_begins_alike_shares_up_to_the_page_where_it_parts() -> None:
    scheduler, line = make(), line_of()
    for name, prompt, wanted in (
        ("first", tale(200), 200),
        ("parts", [*tale(150), *tale(50, start=3)], 200 - 2 * PAGE_TOKENS),
        ("other", [5, *tale(199)], 200),
        ("again", [5, *tale(199)], 200 - 3 * PAGE_TOKENS),
    ):
        before = line.computed
        scheduler.submit(telling(name, prompt))
        drain(scheduler, line)
        assert computed(line, before) == wanted, name


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("budget", [64, 512])
def test_those_who_come_together_compute_it_once(batches: int, budget: int) -> None:
    scheduler = make(batches_in_flight=batches, row_budget=budget)
    line = line_of(batches, budget)
    for i in range(4):
        scheduler.submit(telling(f"s{i}", [*tale(256), 1 + i]))
    drain(scheduler, line)
    assert computed(line) == 256 + 4


def test_a_page_is_shared_while_the_step_that_fills_it_is_in_flight() -> None:
    scheduler, line = make(batches_in_flight=2), line_of(2)
    scheduler.submit(telling("a", tale(130)))
    fill(scheduler, line)
    scheduler.submit(telling("b", tale(130)))
    (step,) = fill(scheduler, line)
    assert [(span.start, span.count) for span in step.spans] == [(128, 2)]
    assert len(step.admitted[0].prompt_ids) == 130, "the sampler's history is whole"
    drain(scheduler, line)


def test_an_answer_is_remembered_too() -> None:
    scheduler, line = make(), line_of()
    first = telling("a", tale(60), max_tokens=80)
    scheduler.submit(first)
    ids = emitted(drain(scheduler, line), "a")
    before = line.computed
    scheduler.submit(telling("b", [*tale(60), *ids, 9]))
    drain(scheduler, line)
    assert computed(line, before) == 60 + 80 + 1 - 2 * PAGE_TOKENS


def test_a_resumed_stream_computes_what_is_not_there() -> None:
    scheduler, line = make(), line_of()
    whole = telling("a", tale(100), max_tokens=60)
    scheduler.submit(whole)
    ids = emitted(drain(scheduler, line), "a")
    before = line.computed
    scheduler.submit(telling("b", tale(100), max_tokens=60, emitted_ids=ids[:50]))
    assert emitted(drain(scheduler, line), "b") == ids[50:]
    assert computed(line, before) == 150 - 2 * PAGE_TOKENS + 9


@pytest.mark.parametrize("computed", [0, 1, 2])
def test_a_line_that_joins_the_same_ranks_keeps_what_all_of_them_have(computed: int) -> None:
    """The second page is filled by a step in flight: whoever computed it, one may not have."""
    scheduler, line = make(row_budget=64, batches_in_flight=2), line_of(2, 64)
    scheduler.submit(telling("a", tale(200)))
    fill(scheduler, line)
    scheduler.complete(line.run())
    fill(scheduler, line)
    assert line.in_flight == 2
    line.lose(computed)
    again = make(row_budget=64, batches_in_flight=2)
    again.recall(scheduler.full_pages)
    again.check_integrity()
    before = line.computed
    again.submit(telling("a", tale(200)))
    assert emitted(drain(again, line), "a") == answer(telling("a", tale(200)), 1024)[0]
    assert line.computed - before == 200 - PAGE_TOKENS
    assert again.prefix_hits == PAGE_TOKENS


def test_who_gave_way_computes_only_what_was_forgotten() -> None:
    scheduler, line = make(pages=10), line_of()
    records = [telling(f"s{i}", tale(70, start=i), max_tokens=150) for i in range(3)]
    for each in records:
        scheduler.submit(each)
    completions = drain(scheduler, line)
    for each in records:
        assert emitted(completions, each.stream_id) == answer(each, 1024)[0]
    again = line.admissions[3:]
    assert again, "nobody had to give way"
    assert scheduler.prefix_hits > 0
    # One of the ids that a stream came back with was new: the one it had not been fed yet.
    fed_before = sum(len(a.prompt_ids) + len(a.emitted_ids) - 1 for a in again)
    fed = sum(len(each.prompt_ids) + 149 for each in records)
    assert computed(line) == fed + fed_before - scheduler.prefix_hits


def test_what_was_used_least_recently_makes_room() -> None:
    scheduler, line = make(pages=6), line_of()
    for name, start in (("a", 1), ("b", 2), ("a2", 1), ("c", 3)):
        scheduler.submit(telling(name, tale(129, start)))
        drain(scheduler, line)
    for name, start, wanted in (("a3", 1, 1), ("b2", 2, 65)):
        before = line.computed
        scheduler.submit(telling(name, tale(129, start)))
        drain(scheduler, line)
        assert computed(line, before) == wanted, name


def test_what_is_remembered_keeps_nobody_out() -> None:
    scheduler, line = make(pages=4), line_of()
    for start in range(1, 6):
        scheduler.submit(telling(f"s{start}", tale(250, start)))
        completions = drain(scheduler, line)
        assert len(emitted(completions, f"s{start}")) == 1


def test_a_stream_that_was_never_told_of_needs_no_word_at_its_end() -> None:
    scheduler, line = make(row_budget=8), line_of(budget=8)
    scheduler.submit(telling("long", tale(50)))
    scheduler.submit(telling("later", tale(50, start=2)))
    fill(scheduler, line)
    assert scheduler.running == 2
    scheduler.cancel(StreamId("later"), 0)
    drain(scheduler, line)
    assert len(line.admissions) == 1


def test_a_key_stands_for_all_ids_up_to_its_page() -> None:
    ids = tale(3 * PAGE_TOKENS)
    keys = KeyChain(ids).first(3)
    assert KeyChain(list(ids)).first(3) == keys
    assert len(set(keys)) == 3
    for place in (0, PAGE_TOKENS, 2 * PAGE_TOKENS):
        changed = [*ids]
        changed[place] += 1
        other = KeyChain(changed).first(3)
        page = place // PAGE_TOKENS
        assert other[:page] == keys[:page]
        assert set(other[page:]).isdisjoint(keys)
