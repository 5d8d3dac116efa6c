"""A stream as the scheduler sees it: ids, and how many of them were fed down the line."""

from __future__ import annotations

from paceline.engine.lookup import Lookup
from paceline.engine.prefix import KeyChain, PageKey
from paceline.types.model import PAGE_TOKENS
from paceline.types.step import Admission, SampledToken, Span
from paceline.types.stream import Finished, FinishReason, StreamRecord, Token


class Sequence:
    """Its ids are fed in order; what is not yet fed is pending. Feeding the last id asks for a
    sample, whose id becomes the next pending one. Ids whose pages are known already need not be
    fed, except the last one. Guesses at ids to come may be fed behind the last id: they count as
    fed once they have turned out right."""

    def __init__(self, record: StreamRecord) -> None:
        self.record = record
        self.ids = [*record.prompt_ids, *record.emitted_ids]
        self.slot: int | None = None
        self.fed = 0
        self.last_step = -1
        """The newest step that names its slot."""
        self._prefill = 0
        self._filled = 0
        """Pages that were full of fed ids when it was last fed."""
        self._chain = KeyChain(self.ids)
        self._lookup = Lookup(self.ids)

    @property
    def emitted(self) -> int:
        return len(self.ids) - len(self.record.prompt_ids)

    @property
    def pending(self) -> int:
        """Ids not yet fed: none while a sample is in flight."""
        return len(self.ids) - self.fed

    @property
    def new(self) -> bool:
        """No step has named its slot yet: nobody else knows of it."""
        return self.last_step < 0

    @property
    def decoding(self) -> bool:
        """All ids that it had when it took its slot are fed."""
        return self.fed >= self._prefill

    def keys_ahead(self) -> list[PageKey]:
        """Keys of the pages that it could share rather than fill: whole ones from where it stands,
        and not the last id's."""
        if self.fed % PAGE_TOKENS:
            return []
        return self._chain.first((len(self.ids) - 1) // PAGE_TOKENS)[self.fed // PAGE_TOKENS :]

    def newly_filled(self, pages: tuple[int, ...]) -> list[tuple[int, PageKey]]:
        """Those of its pages that are full of fed ids since it was last asked, and their keys."""
        first, self._filled = self._filled, self.fed // PAGE_TOKENS
        if first == self._filled:
            return []
        keys = self._chain.first(self._filled)[first:]
        return list(zip(pages[first : self._filled], keys, strict=True))

    def take_slot(self, slot: int) -> None:
        """Starts from the first id: a new slot has nothing in its pages."""
        self.slot, self.fed, self._filled, self.last_step = slot, 0, 0, -1
        self._prefill = len(self.ids)

    def leave_slot(self) -> None:
        self.slot = None

    def admission(self, slot: int) -> Admission:
        prompt_ids = self.record.prompt_ids
        return Admission(
            slot=slot,
            params=self.record.params,
            prompt_ids=prompt_ids,
            emitted_ids=tuple(self.ids[len(prompt_ids) :]),
        )

    def skip(self, pages: int) -> None:
        """So many pages more are there already."""
        self.fed += pages * PAGE_TOKENS
        self._filled += pages

    def next_ids(self, count: int) -> list[int]:
        return self.ids[self.fed : self.fed + count]

    def guess(self, most: int, max_context: int, rows_abound: bool) -> tuple[int, ...]:
        """Ids that may come behind the pending one: no more than it can still use."""
        left = self.record.params.max_tokens - self.emitted
        most = min(most, left - 1, max_context - len(self.ids) - 1)
        return self._lookup.guess(most, rows_abound)

    def judge(self, guessed: int, right: int) -> None:
        self._lookup.judge(guessed, right)

    def feed(
        self, slot: int, count: int, pages: tuple[int, ...], step: int, guesses: tuple[int, ...]
    ) -> Span:
        start, self.fed = self.fed, self.fed + count
        self.last_step = step
        return Span(slot, start, count + len(guesses), pages, self.pending == 0, guesses)

    def append(self, drawn: SampledToken) -> Token:
        # Nothing is pending while a sample is in flight; so this one was drawn behind a guess that
        # was right, which is the pending id, and was fed.
        self.fed += self.pending
        self.ids.append(drawn.id)
        record = self.record
        return Token(
            record.stream_id, record.attempt, drawn.position, drawn.id, drawn.logprob, drawn.top
        )

    def finish_reason(self, eos_ids: frozenset[int], max_context: int) -> FinishReason | None:
        """Whether the last emitted id ended it, and why."""
        params = self.record.params
        if not self.emitted:
            return None
        last = self.ids[-1]
        if last in params.stop_token_ids or (last in eos_ids and not params.ignore_eos):
            return FinishReason.STOP
        if self.emitted >= params.max_tokens or len(self.ids) >= max_context:
            return FinishReason.LENGTH
        return None

    def finished(self, reason: FinishReason) -> Finished:
        return Finished(
            stream_id=self.record.stream_id,
            attempt=self.record.attempt,
            emitted=self.emitted,
            reason=reason,
        )
