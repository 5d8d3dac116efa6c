"""The record of one stream and the text made of it.

Pure: no clock, no I/O. A stream takes tokens of its current attempt, at the next position only,
so whatever the drivers send twice, late or from an older epoch, the client's text is made of each
token once and in order. It also knows every token-level end by itself: a driver that dies between
the last token and its word that the stream has finished costs nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from enum import Enum
from typing import Protocol

import msgspec

from paceline.gateway.text import StopText
from paceline.types.ids import StreamId
from paceline.types.stream import Finished, FinishReason, SamplingParams, StreamRecord, Token


class Detokenizer(Protocol):
    """Turns ids into text incrementally; holds back bytes of an unfinished character."""

    def add(self, token_id: int) -> str: ...
    def finish(self) -> str: ...


class Verdict(Enum):
    """What became of a message for a stream."""

    ACCEPTED = "accepted"
    STALE = "stale"
    """Of another attempt, a position already taken, or after the end."""
    GAP = "gap"
    """Something before it was lost: only another attempt can go on."""


class TokenEntry(msgspec.Struct, frozen=True):
    """A token whose text has been shown, at least its beginning."""

    token: Token
    offset: int
    """Characters of the stream's text before it."""


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream has gained since it was last asked."""

    text: str
    ids: tuple[int, ...]
    """All ids taken, with those that show no text."""
    entries: tuple[TokenEntry, ...]
    """Empty unless logprobs were asked for."""
    finish_reason: FinishReason | None


class Stream:
    """One choice of one request. `end_ids` end the stream and show no text."""

    def __init__(
        self,
        *,
        stream_id: StreamId,
        prompt_ids: tuple[int, ...],
        params: SamplingParams,
        end_ids: Set[int],
        detokenizer: Detokenizer,
        stops: StopText,
    ) -> None:
        self.stream_id = stream_id
        self.prompt_ids = prompt_ids
        self.params = params
        self.attempt = 0
        self.emitted_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._end_ids = end_ids
        self._detokenizer = detokenizer
        self._stops = stops
        self._read_chars = 0
        self._shown_chars = 0
        self._text: list[str] = []
        self._taken = 0
        self._end_told = False
        self._entries: deque[TokenEntry] = deque()

    @property
    def ended(self) -> bool:
        return self.finish_reason is not None

    @property
    def pending_tokens(self) -> int:
        """Tokens accepted and not yet taken."""
        return len(self.emitted_ids) - self._taken

    def next_attempt(self) -> StreamRecord:
        """The record that continues this stream anywhere; fences every earlier attempt."""
        self.attempt += 1
        return StreamRecord(
            stream_id=self.stream_id,
            attempt=self.attempt,
            prompt_ids=self.prompt_ids,
            params=self.params,
            emitted_ids=tuple(self.emitted_ids),
        )

    def accept(self, token: Token) -> Verdict:
        position = len(self.emitted_ids)
        if self.ended or token.attempt != self.attempt or token.position < position:
            return Verdict.STALE
        if token.position > position:
            return Verdict.GAP
        self.emitted_ids.append(token.id)
        if token.id in self._end_ids:
            self._end(FinishReason.STOP)
            return Verdict.ACCEPTED
        self._read(token, look_for_stops=position >= self.params.min_tokens)
        if self._stops.stopped is not None:
            self._end(FinishReason.STOP)
        elif len(self.emitted_ids) >= self.params.max_tokens:
            self._end(FinishReason.LENGTH)
        return Verdict.ACCEPTED

    def finish(self, finished: Finished) -> Verdict:
        """The driver's word that it drew the last token. Its `reason` is STOP or LENGTH."""
        if self.ended or finished.attempt != self.attempt:
            return Verdict.STALE
        if finished.emitted > len(self.emitted_ids):
            return Verdict.GAP
        self._end(finished.reason)
        return Verdict.ACCEPTED

    def take(self) -> Delta | None:
        """What is new since the last call; None where nothing is. The end is told once."""
        ids = tuple(self.emitted_ids[self._taken :])
        if not (ids or self._text or (self.ended and not self._end_told)):
            return None
        delta = Delta(
            text="".join(self._text),
            ids=ids,
            entries=self._shown_entries(),
            finish_reason=self.finish_reason,
        )
        self._taken = len(self.emitted_ids)
        self._text.clear()
        self._end_told = self.ended
        return delta

    def _read(self, token: Token, *, look_for_stops: bool) -> None:
        if self.params.logprobs is not None:
            self._entries.append(TokenEntry(token, self._read_chars))
        text = self._detokenizer.add(token.id)
        self._read_chars += len(text)
        self._show(self._stops.feed(text) if look_for_stops else self._stops.pass_by(text))

    def _end(self, reason: FinishReason) -> None:
        self.finish_reason = reason
        if self._stops.stopped is None:
            self._show(self._stops.feed(self._detokenizer.finish()))
        if self._stops.stopped is None:
            self._show(self._stops.flush())

    def _show(self, text: str) -> None:
        if text:
            self._text.append(text)
            self._shown_chars += len(text)

    def _shown_entries(self) -> tuple[TokenEntry, ...]:
        """Entries whose text has begun to show; at an end that cut no text, all of them."""
        whole = self.ended and self._stops.stopped is None
        shown: list[TokenEntry] = []
        while self._entries and (whole or self._entries[0].offset < self._shown_chars):
            shown.append(self._entries.popleft())
        return tuple(shown)
