from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from paceline.checkpoint.token_bytes import TokenBytes, byte_level_bytes
from paceline.checkpoint.tokenizer import Detokenizer
from paceline.gateway.streams import Delta, Stream, Verdict
from paceline.gateway.text import StopText
from paceline.types.ids import StreamId
from paceline.types.stream import Finished, FinishReason, SamplingParams, Token
from tests.gateway.rig import EOS, byte_tokenizer, ids_of

BYTES = TokenBytes(byte_tokenizer(), byte_level_bytes, leading_space=False)


def stream(stops: tuple[str, ...] = (), **params: Any) -> Stream:
    return Stream(
        stream_id=StreamId("s"),
        prompt_ids=(1, 2),
        params=SamplingParams(**{"max_tokens": 200, "seed": 1, **params}),
        end_ids=frozenset({EOS}),
        detokenizer=Detokenizer(BYTES, frozenset({EOS}), continuing=True),
        stops=StopText(stops),
    )


def token(attempt: int, position: int, id_: int) -> Token:
    return Token(StreamId("s"), attempt, position, id_, -0.5)


def taken(*deltas: Delta | None) -> tuple[str, list[int], list[FinishReason | None]]:
    there = [delta for delta in deltas if delta is not None]
    return (
        "".join(delta.text for delta in there),
        [id_ for delta in there for id_ in delta.ids],
        [delta.finish_reason for delta in there],
    )


def finished(attempt: int, emitted: int, reason: FinishReason = FinishReason.STOP) -> Finished:
    return Finished(stream_id=StreamId("s"), attempt=attempt, emitted=emitted, reason=reason)


faults = st.lists(
    st.one_of(
        st.tuples(st.just("repeat"), st.integers(0, 30)),
        st.tuples(st.just("skip"), st.integers(1, 5)),
        st.tuples(st.just("again"), st.integers(0, 0)),
        st.tuples(st.just("take"), st.integers(0, 0)),
        st.tuples(st.just("old"), st.integers(0, 30)),
        st.tuples(st.just("next"), st.integers(0, 0)),
    ),
    max_size=120,
)


@given(faults, st.text("aé🌍x", min_size=1, max_size=12), st.sampled_from([(), ("x🌍",), ("éa",)]))
def test_each_token_counts_once_and_in_order_whatever_comes(
    events: list[tuple[str, int]], text: str, stops: tuple[str, ...]
) -> None:
    """Repeated, skipped and outdated tokens, new attempts and takes in any order change nothing."""
    ids = [*ids_of(text), EOS]
    calm, disturbed = stream(stops), stream(stops)
    calm.next_attempt()
    for position, id_ in enumerate(ids):
        calm.accept(token(1, position, id_))
    deltas: list[Delta | None] = []
    record = disturbed.next_attempt()
    for kind, number in events:
        at = len(disturbed.emitted_ids)
        if kind == "again":
            record = disturbed.next_attempt()
            assert list(record.emitted_ids) == ids[:at]
        elif kind == "take":
            deltas.append(disturbed.take())
        elif kind == "repeat" and number < at:
            assert disturbed.accept(token(record.attempt, number, 65)) is Verdict.STALE
        elif kind == "skip":
            verdict = disturbed.accept(token(record.attempt, at + number, 65))
            assert verdict is (Verdict.STALE if disturbed.ended else Verdict.GAP)
        elif kind == "old":
            assert disturbed.accept(token(record.attempt - 1, at, 65)) is Verdict.STALE
        elif kind == "next" and at < len(ids):
            disturbed.accept(token(record.attempt, at, ids[at]))
    while not disturbed.ended:
        at = len(disturbed.emitted_ids)
        disturbed.accept(token(record.attempt, at, ids[at]))
    deltas.append(disturbed.take())
    got, want = taken(*deltas), taken(calm.take())
    assert got[:2] == want[:2]
    assert [reason for reason in got[2] if reason] == [FinishReason.STOP]
    assert disturbed.take() is None


def test_the_last_token_ends_it_without_a_word_from_the_driver() -> None:
    by_length = stream(max_tokens=2)
    by_length.next_attempt()
    by_length.accept(token(1, 0, 65))
    by_length.accept(token(1, 1, 66))
    assert by_length.finish_reason is FinishReason.LENGTH
    by_eos = stream()
    by_eos.next_attempt()
    by_eos.accept(token(1, 0, EOS))
    assert taken(by_eos.take()) == ("", [EOS], [FinishReason.STOP])


def test_a_driver_may_end_it_too_but_not_past_a_lost_token() -> None:
    it = stream()
    it.next_attempt()
    it.accept(token(1, 0, 65))
    assert it.finish(finished(0, 1)) is Verdict.STALE
    assert it.finish(finished(1, 2)) is Verdict.GAP
    assert it.finish(finished(1, 1, FinishReason.LENGTH)) is Verdict.ACCEPTED
    assert it.finish(finished(1, 1)) is Verdict.STALE
    assert it.finish_reason is FinishReason.LENGTH


def test_no_stop_string_before_min_tokens() -> None:
    it = stream(("a",), min_tokens=2)
    it.next_attempt()
    for position, id_ in enumerate(ids_of("aaab")):
        it.accept(token(1, position, id_))
    assert taken(it.take())[0] == "aa"
    assert len(it.emitted_ids) == 3


def test_the_beginning_of_a_stop_string_is_shown_after_all() -> None:
    it = stream(("END",))
    it.next_attempt()
    for position, id_ in enumerate([*ids_of("one EN"), EOS]):
        it.accept(token(1, position, id_))
    assert taken(it.take()) == ("one EN", [*ids_of("one EN"), EOS], [FinishReason.STOP])


def test_an_unfinished_character_at_the_end_is_shown_as_such() -> None:
    it = stream(max_tokens=2)
    it.next_attempt()
    for position, id_ in enumerate(ids_of("🌍")[:2]):
        it.accept(token(1, position, id_))
    assert taken(it.take())[0] == "\ufffd"


def test_logprobs_come_with_their_text_and_not_past_a_stop_string() -> None:
    it = stream(("STOP",), logprobs=0)
    it.next_attempt()
    shown: list[tuple[int, int]] = []
    text = ""
    for position, id_ in enumerate(ids_of("aéSTOP")):
        it.accept(token(1, position, id_))
        delta = it.take()
        assert delta is not None
        text += delta.text
        assert len(delta.entries) <= 2
        shown += [(entry.token.position, entry.offset) for entry in delta.entries]
    assert text == "aé"
    assert shown == [(0, 0), (1, 1), (2, 1)]


def test_a_record_continues_the_stream_anywhere() -> None:
    it = stream()
    it.next_attempt()
    it.accept(token(1, 0, 65))
    record = it.next_attempt()
    assert (record.attempt, record.emitted_ids, record.prompt_ids) == (2, (65,), (1, 2))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=type(record)) == record
