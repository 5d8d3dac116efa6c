"""The driver's scheduler: schedule → run → complete. Pure decisions, no model and no clock.

A prompt chunk, a decode row and a resumed stream are one and the same thing: ids of a sequence
that were not yet fed down the line. Ids that begin as those of another stream did are not fed
again: its full pages are shared, as long as they are remembered.

Policy
- Each step takes decode rows first: least recently stepped first, and only this step's share of
  all decoding sequences, so that every batch in flight has some. To them come chunks of prompts,
  as many rows as `StepCost` finds good, shared out by `chunks`; none where it asks for a step of
  decode rows alone.
- While few decode, each brings rows of guesses at its next tokens along, as far as `guess_rows`
  go: they read the weights with the others. Nobody gives way for them.
- Pages are given in order of arrival, and there nobody overtakes. A sequence is admitted when
  pages for all its ids are free, with some to spare, and takes further ones as it grows. When none
  is left, the sequence that came last gives all of its own back, waits at the head of the queue,
  and is prefilled again from its ids; a sample still in flight for it is dropped, and drawn the
  same again. The oldest sequence gives way to nobody, and `submit` has made sure that it fits
  alone: somebody always moves.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

import msgspec

from paceline.engine.chunks import share_out
from paceline.engine.draft import Draft
from paceline.engine.flight import Flight
from paceline.engine.lookup import MOST_GUESSES
from paceline.engine.pages import pages_for
from paceline.engine.prefix import PageKey
from paceline.engine.sequence import Sequence
from paceline.engine.slots import SlotTable
from paceline.engine.stepcost import StepCost
from paceline.types.errors import EngineError, InvalidRequest, QueueFull
from paceline.types.ids import StreamId
from paceline.types.limits import validate_record
from paceline.types.model import PAGE_TOKENS
from paceline.types.step import Sampled, Step
from paceline.types.stream import Finished, StreamRecord, Token

MAX_ENDED = 4096
"""Ended streams whose repetition is still known for one."""


class Completion(msgspec.Struct, frozen=True):
    """What a step gave. An eos or stop token is a token like any other (the gateway drops its
    text), so positions, usage and logprobs are exact; the end of its stream is in `finished`."""

    tokens: tuple[Token, ...] = ()
    finished: tuple[Finished, ...] = ()


class Scheduler:
    """Owns the streams, slots and pages of one epoch. For one thread."""

    def __init__(
        self,
        *,
        pages: int,
        max_context: int,
        vocab_size: int,
        eos_ids: frozenset[int],
        row_budget: int = 512,
        guess_rows: int = 0,
        max_running: int = 64,
        max_waiting: int = 256,
        batches_in_flight: int = 1,
        cost: StepCost | None = None,
    ) -> None:
        """`row_budget` is per step; how many of them prompts get follows from `cost`, if that is
        known. Each of d streams that decode, in all batches, brings `guess_rows` // d rows
        along, of which all but the first are guesses. As many `batches_in_flight` as the line has
        ranks, or more, keep every rank at work.
        """
        if min(pages, max_context, vocab_size, row_budget) < 1:
            raise EngineError("pages, max_context, vocab_size and row_budget must be at least 1")
        if min(max_running, max_waiting, batches_in_flight) < 1:
            raise EngineError("max_running, max_waiting, batches_in_flight must be at least 1")
        self._max_context = max_context
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._row_budget = row_budget
        self._guess_rows = min(guess_rows, row_budget)
        self.guesses_made = 0
        """At next tokens, in steps that came back."""
        self.guesses_right = 0
        self._max_waiting = max_waiting
        self.batches_in_flight = batches_in_flight
        """May be changed at any time."""
        self._cost = cost or StepCost(row_budget)

        self._streams: dict[StreamId, Sequence] = {}
        self._ended: dict[StreamId, int] = {}
        self._waiting: deque[Sequence] = deque()
        # Nobody overtakes: all that run, in their order, came before all that wait.
        self._slots = SlotTable(pages, max_running)
        self._line: deque[Flight] = deque()
        self._next_step = 0

    # --- what one may ask ------------------------------------------------------------------------

    @property
    def running(self) -> int:
        return len(self._slots.running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def held_up(self) -> list[tuple[StreamId, int]]:
        """Streams, with their attempts, that can gain nothing yet: they wait for pages, or their
        prompt is being read."""
        reading = (one for one in self._slots.running.values() if not one.decoding)
        return [(one.record.stream_id, one.record.attempt) for one in (*reading, *self._waiting)]

    @property
    def pages_free(self) -> int:
        return self._slots.pool.free

    @property
    def pages_total(self) -> int:
        return self._slots.pool.total

    @property
    def prefix_queries(self) -> int:
        """Ids of all streams that were admitted, each time they were."""
        return self._slots.prefix_queries

    @property
    def prefix_hits(self) -> int:
        """Those of them that were not computed, because their pages were there."""
        return self._slots.prefix_hits

    @property
    def in_flight(self) -> int:
        """Steps that have not come back."""
        return len(self._line)

    @property
    def idle(self) -> bool:
        """No stream is here, nothing is in flight, and the ranks know of every freed slot."""
        return not (self._streams or self._line or self._slots.has_freed)

    def check_integrity(self) -> None:
        """Raises EngineError if the pages are not as they must be."""
        self._slots.check_integrity()

    # --- from one epoch to the next --------------------------------------------------------------

    @property
    def full_pages(self) -> dict[int, PageKey]:
        """Pages that every rank of this line has filled, with their keys: what a scheduler of the
        same ranks may `recall` as long as nobody else wrote there. Raises EngineError if the pages
        are not as they must be."""
        self.check_integrity()
        return self._slots.full_pages

    def recall(self, full_pages: Mapping[int, PageKey]) -> None:
        """Begins with what an older scheduler left in the same pages. Before the first stream."""
        self._slots.recall(full_pages)

    # --- streams come and go ---------------------------------------------------------------------

    def submit(self, record: StreamRecord) -> Finished | None:
        """Queues a stream; one whose record ended it already gets its end back at once.

        A repeated or older attempt changes nothing; a higher one first cancels the lower. Raises
        InvalidRequest for what can never run here, QueueFull while the queue is.
        """
        newest = self._newest_attempt(record.stream_id)
        if newest is not None and newest >= record.attempt:
            return None
        self._drop(record.stream_id)
        self._validate(record)
        sequence = Sequence(record)
        reason = sequence.finish_reason(self._eos_ids, self._max_context)
        if reason is not None:
            self._note_end(record.stream_id, record.attempt)
            return sequence.finished(reason)
        if len(self._waiting) >= self._max_waiting:
            raise QueueFull(f"{len(self._waiting)} streams are waiting already; try again later")
        self._streams[record.stream_id] = sequence
        self._waiting.append(sequence)
        return None

    def cancel(self, stream_id: StreamId, attempt: int) -> None:
        """Ends the stream without a word, unless its attempt is newer; nor is this attempt, or an
        older one, taken in later."""
        newest = self._newest_attempt(stream_id)
        if newest is None or newest <= attempt:
            self._drop(stream_id)
            self._note_end(stream_id, attempt)

    def _newest_attempt(self, stream_id: StreamId) -> int | None:
        live = self._streams.get(stream_id)
        return self._ended.get(stream_id) if live is None else live.record.attempt

    def _validate(self, record: StreamRecord) -> None:
        validate_record(record, self._vocab_size)
        prompt = len(record.prompt_ids)
        if prompt >= self._max_context:
            raise InvalidRequest(
                f"the prompt has {prompt} tokens and the context holds {self._max_context}, "
                "of which the answer needs at least one; shorten the prompt"
            )
        # The last token of an answer is never fed.
        most = min(prompt + record.params.max_tokens, self._max_context) - 1
        if pages_for(most) > self.pages_total:
            raise InvalidRequest(
                f"prompt and answer may need {most} tokens of KV and this instance has "
                f"{self.pages_total * PAGE_TOKENS}; shorten the prompt or lower max_tokens"
            )

    def _drop(self, stream_id: StreamId) -> None:
        sequence = self._streams.get(stream_id)
        if sequence is None:
            return
        if sequence.slot is None:
            self._waiting.remove(sequence)
        self._end(sequence)

    def _end(self, sequence: Sequence) -> None:
        record = sequence.record
        del self._streams[record.stream_id]
        self._note_end(record.stream_id, record.attempt)
        if sequence.slot is not None:
            self._slots.retire(sequence.slot)

    def _note_end(self, stream_id: StreamId, attempt: int) -> None:
        self._ended.pop(stream_id, None)
        self._ended[stream_id] = attempt
        if len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]

    # --- schedule --------------------------------------------------------------------------------

    def schedule(self) -> Step | None:
        """The next step, or None: nothing to do, or as many in flight as allowed.

        Steps without spans, which only tell of freed slots, are made when the line is empty.
        """
        if len(self._line) >= self.batches_in_flight:
            return None
        draft = Draft(self._next_step)
        running = self._slots.running
        share = self._guess_rows // max(sum(one.decoding for one in running.values()), 1)
        for slot in self._decode_slots():
            draft.feed(self._slots, slot, 1, self._guesses(slot, share))
        self._feed_prompts(draft)
        if not draft.spans and (self._line or not self._slots.has_freed):
            return None
        self._next_step += 1
        step = draft.step(freed=self._slots.take_freed())
        self._line.append(draft.flight(step))
        self._slots.step_made(step.number)
        return step

    def _decode_slots(self) -> list[int]:
        running = self._slots.running
        decoding = [slot for slot, sequence in running.items() if sequence.decoding]
        share = -(-len(decoding) // self.batches_in_flight)
        ready = sorted(
            (slot for slot in decoding if running[slot].pending),
            key=lambda slot: running[slot].last_step,
        )
        grown = [slot for slot in ready[: min(share, self._row_budget)] if self._make_room(slot)]
        # Whoever made room first may have had to give it up to one who came earlier.
        return [slot for slot in grown if slot in running]

    def _make_room(self, slot: int) -> bool:
        """Whether the slot can take one more row in this step."""
        while slot in self._slots.running:
            if self._slots.grow(slot):
                return True
            if self._slots.retiring:
                return False
            self._preempt_last()
        return False

    def _guesses(self, slot: int, share: int) -> tuple[int, ...]:
        """For a slot that may have `share` rows of a step."""
        most = min(share, self._slots.spare_rows(slot)) - 1
        if most <= 0:
            return ()
        return self._slots.running[slot].guess(most, self._max_context, share > MOST_GUESSES)

    def _preempt_last(self) -> None:
        last = next(reversed(self._slots.running))
        self._waiting.appendleft(self._slots.retire(last))

    def _feed_prompts(self, draft: Draft) -> None:
        """Chunks of the prompts of those that run, and of those that now may."""
        self._admit()
        if draft.rows and self._cost.wants_alone():
            return
        pending: dict[int, int] = {}
        decoding = 0
        for slot, sequence in self._slots.running.items():
            if sequence.decoding:
                decoding += 1
            else:
                self._slots.share_known(slot)
                pending[slot] = sequence.pending
        rows = draft.rows or int(decoding > 0)
        good = self._cost.prompt_rows(rows, sum(pending.values()), len(pending) / max(decoding, 1))
        budget = min(good, self._row_budget - draft.rows)
        for slot, rows in share_out(pending, budget).items():
            if self._slots.may_feed(slot):
                draft.feed(self._slots, slot, rows)

    def _admit(self) -> None:
        while self._waiting and self._slots.can_admit(self._waiting[0]):
            self._slots.admit(self._waiting.popleft())

    # --- complete --------------------------------------------------------------------------------

    def complete(self, sampled: Sampled) -> Completion:
        """Takes in what the oldest step in flight gave. Tokens of slots that ended meanwhile are
        dropped.

        Raises EngineError, and then has changed nothing, where the answer is not to that step or
        its tokens are not those asked for.
        """
        if not self._line:
            raise EngineError(f"step {sampled.number} came back and none is in flight")
        self._line[0].verify(sampled, self._vocab_size)
        flight = self._line.popleft()
        self._slots.step_returned(sampled.number)
        tokens: list[Token] = []
        finished: list[Finished] = []
        for drawn in sampled.tokens:
            sequence = self._slots.running.get(drawn.slot)
            if sequence is None:
                continue
            tokens.append(sequence.append(drawn))
            reason = sequence.finish_reason(self._eos_ids, self._max_context)
            if reason is not None:
                finished.append(sequence.finished(reason))
                self._end(sequence)
        self._judge(flight, sampled)
        return Completion(tuple(tokens), tuple(finished))

    def _judge(self, flight: Flight, sampled: Sampled) -> None:
        if not flight.guesses:
            return
        drawn = Counter(token.slot for token in sampled.tokens)
        for slot, guesses in flight.guesses.items():
            right = drawn[slot] - 1
            self.guesses_made += len(guesses)
            self.guesses_right += right
            if (sequence := self._slots.running.get(slot)) is not None:
                sequence.judge(len(guesses), right)
