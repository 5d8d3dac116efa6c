"""What flows down the line: one step is one batch of rows of many sequences.

The driver alone decides what a step holds. Ranks see slots (a sequence's handle, unique within an
epoch) and page ids; only the first and the last rank see token ids.
"""

from __future__ import annotations

import msgspec

from paceline.types.stream import SamplingParams


class Span(msgspec.Struct, frozen=True, array_like=True):
    """One sequence's rows in a step.

    Rows cover absolute positions [start, start + count); `pages` is the page table that covers
    [0, start + count). `sample`: the last row's logits are needed, and one token is drawn.
    `guesses`: the ids of so many last rows, which nobody has drawn yet; then logits are needed for
    them and the row before them, and tokens are drawn as long as the guesses are right.
    """

    slot: int
    start: int
    count: int
    pages: tuple[int, ...]
    sample: bool
    guesses: tuple[int, ...] = ()


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What the last rank needs to sample for a slot; goes down the line once."""

    slot: int
    params: SamplingParams
    prompt_ids: tuple[int, ...]
    emitted_ids: tuple[int, ...]


class Times(msgspec.Struct, frozen=True, array_like=True):
    """What ranks needed for a step so far, in seconds; each measures by its own clock."""

    slowest_s: float = 0.0
    """The longest that one computed."""
    waited_s: float = 0.0
    """For steps before it, at all of them together."""

    def with_rank(self, *, worked_s: float, waited_s: float) -> Times:
        return Times(max(self.slowest_s, worked_s), self.waited_s + waited_s)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A batch. `freed` slots are forgotten before `admitted` ones are taken in; both may come
    with no spans at all. `token_ids` are the rows' inputs, for the first rank only (it is the
    driver, so they never travel)."""

    number: int
    freed: tuple[int, ...] = ()
    admitted: tuple[Admission, ...] = ()
    spans: tuple[Span, ...] = ()
    token_ids: tuple[int, ...] = ()
    times: Times = Times()

    @property
    def rows(self) -> int:
        return sum(span.count for span in self.spans)

    @property
    def sampled_slots(self) -> tuple[int, ...]:
        """Slots that tokens are drawn for, in the order of their spans."""
        return tuple(span.slot for span in self.spans if span.sample)

    @property
    def guesses(self) -> dict[int, tuple[int, ...]]:
        """By slot, where there are some."""
        return {span.slot: span.guesses for span in self.spans if span.guesses}


class SampledToken(msgspec.Struct, frozen=True, array_like=True):
    """The token drawn for a slot. `position` counts emitted tokens of the stream from 0."""

    slot: int
    position: int
    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampled(msgspec.Struct, frozen=True, kw_only=True):
    """The last rank's answer to a step; also the word that the step has left the line."""

    number: int
    tokens: tuple[SampledToken, ...] = ()
    times: Times = Times()
