"""Ranks that know nothing but the steps they are sent: pages with contents, sampler states, and a
model whose next token follows from all ids that it finds in its pages, and mostly from the last."""

from __future__ import annotations

import zlib
from array import array
from collections import deque
from collections.abc import Iterator, Sequence

from paceline.types.model import PAGE_TOKENS
from paceline.types.step import Admission, Sampled, SampledToken, Span, Step
from paceline.types.stream import FinishReason, StreamRecord

VOCAB = 97
EOS = 0


def next_id(ids: Sequence[int]) -> int:
    """So that guesses are right now and then."""
    everything = zlib.crc32(array("I", ids).tobytes())
    return everything % VOCAB if everything % 5 == 0 else zlib.crc32(bytes([ids[-1]])) % VOCAB


def answer(record: StreamRecord, max_context: int) -> tuple[list[int], FinishReason]:
    """What the model says, computed without any scheduler."""
    params = record.params
    ids = [*record.prompt_ids, *record.emitted_ids]
    while True:
        ids.append(next_id(ids))
        emitted = ids[len(record.prompt_ids) :]
        ends = (EOS, *params.stop_token_ids) if not params.ignore_eos else params.stop_token_ids
        if ids[-1] in ends:
            return emitted, FinishReason.STOP
        if len(emitted) == params.max_tokens or len(ids) == max_context:
            return emitted, FinishReason.LENGTH


def written_by(span: Span) -> set[int]:
    """Pages that the span writes to."""
    return set(span.pages[span.start // PAGE_TOKENS :])


class FakeLine:
    """`send` checks what a step may hold, `run` carries out the oldest one."""

    def __init__(self, *, row_budget: int, batches_in_flight: int) -> None:
        self._row_budget = row_budget
        self.batches_in_flight = batches_in_flight
        self._steps: deque[Step] = deque()
        self._tables: dict[int, set[int]] = {}
        self._fed: dict[int, int] = {}
        self._unsampled: set[int] = set()
        self._memory: dict[tuple[int, int], int] = {}
        self._ids: dict[int, list[int]] = {}
        self.emitted: dict[int, int] = {}
        self.last_number = -1
        self.computed = 0
        """Rows of all steps."""
        self.admissions: list[Admission] = []

    @property
    def in_flight(self) -> int:
        return len(self._steps)

    @property
    def slots(self) -> set[int]:
        return set(self._fed)

    def send(self, step: Step) -> None:
        assert step.number > self.last_number
        assert step.rows <= self._row_budget
        assert step.rows == len(step.token_ids)
        assert step.spans or (step.freed and not self._steps), "an empty step for nothing"
        self.last_number = step.number
        for slot in step.freed:
            del self._fed[slot], self._tables[slot]
            self._unsampled.discard(slot)
        for admission in step.admitted:
            assert all(admission.slot != other.slot for other in self.admissions), "a slot again"
            assert admission.slot in {span.slot for span in step.spans}
            self.admissions.append(admission)
            self._fed[admission.slot] = 0
            self._tables[admission.slot] = set()
        assert len({span.slot for span in step.spans}) == len(step.spans)
        for span in step.spans:
            self._check_span(span, step)
        self._steps.append(step)
        self.computed += step.rows
        assert len(self._steps) <= self.batches_in_flight

    def _check_span(self, span: Span, step: Step) -> None:
        assert span.count > 0
        skipped = span.start - self._fed[span.slot]
        if skipped:
            assert skipped > 0, "an id is fed twice"
            assert skipped % PAGE_TOKENS == span.start % PAGE_TOKENS == 0, "a page has a gap"
        assert span.slot not in self._unsampled, "a sample is still in flight"
        assert len(span.pages) == -(-(span.start + span.count) // PAGE_TOKENS)
        assert len(set(span.pages)) == len(span.pages)
        written = written_by(span)
        for slot, pages in self._tables.items():
            assert slot == span.slot or pages.isdisjoint(written), "a shared page is written"
        for other in (other for sent in (*self._steps, step) for other in sent.spans):
            assert other.slot == span.slot or written.isdisjoint(other.pages), (
                "a page is written while a step in flight names it for another"
            )
        self._fed[span.slot] = span.start + span.count - len(span.guesses)
        self._tables[span.slot] |= set(span.pages)
        if span.sample:
            self._unsampled.add(span.slot)

    def run(self) -> Sampled:
        step = self._steps.popleft()
        for slot in step.freed:
            del self._ids[slot], self.emitted[slot]
        for admission in step.admitted:
            self._ids[admission.slot] = [*admission.prompt_ids, *admission.emitted_ids]
            self.emitted[admission.slot] = len(admission.emitted_ids)
        ids = iter(step.token_ids)
        tokens = []
        for span in step.spans:
            for row in range(span.start, span.start + span.count):
                self._memory[self._place(span, row)] = next(ids)
            if span.sample:
                tokens += self._sample(span)
        return Sampled(number=step.number, tokens=tuple(tokens))

    def lose(self, computed: int) -> None:
        """The line is over while steps are in it, and so many of them were computed. A new one
        begins over the same pages."""
        for _ in range(min(computed, self.in_flight)):
            self.run()
        for forgotten in (self._steps, self._tables, self._fed, self._unsampled):
            forgotten.clear()
        self._ids, self.emitted, self.admissions = {}, {}, []
        self.last_number = -1

    def _sample(self, span: Span) -> Iterator[SampledToken]:
        self._unsampled.discard(span.slot)
        known = span.start + span.count - len(span.guesses)
        for count, guess in enumerate((*span.guesses, None), start=known):
            seen = [self._memory[self._place(span, row)] for row in range(count)]
            assert seen == self._ids[span.slot], "pages do not hold the ids of the stream"
            token = SampledToken(span.slot, self.emitted[span.slot], next_id(seen))
            self._ids[span.slot].append(token.id)
            self.emitted[span.slot] += 1
            yield token
            if token.id != guess:
                return
            if span.slot in self._fed:
                self._fed[span.slot] += 1

    @staticmethod
    def _place(span: Span, row: int) -> tuple[int, int]:
        return span.pages[row // PAGE_TOKENS], row % PAGE_TOKENS
