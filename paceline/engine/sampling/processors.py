"""Logits processors: what changes a row of logits before a token is drawn from it.

The state of a processor is a pure function of (parameters, prompt ids, emitted ids), so that a
resumed stream goes on as if nothing had happened. A grammar is one more maker in `MAKERS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from paceline.types.step import Admission

Row = NDArray[np.float32]
Ids = NDArray[np.intp]


class Vocabulary(msgspec.Struct, frozen=True):
    size: int
    eos_ids: frozenset[int]


class LogitsProcessor(Protocol):
    """Follows one stream's tokens and changes its logits."""

    def apply(self, logits: Row, position: int) -> None:
        """Changes `logits` [vocab] in place; `position` tokens were emitted before."""

    def accept(self, token_id: int) -> None:
        """Takes in the token that was drawn."""


class LogitBias:
    def __init__(self, bias: dict[int, float]) -> None:
        self._ids = np.array(list(bias), dtype=np.intp)
        self._bias = np.array(list(bias.values()), dtype=np.float32)

    @classmethod
    def make(cls, admission: Admission, _vocabulary: Vocabulary) -> Self | None:
        bias = admission.params.logit_bias
        return cls(bias) if bias else None

    def apply(self, logits: Row, position: int) -> None:
        logits[self._ids] += self._bias

    def accept(self, token_id: int) -> None:
        pass


class MinTokens:
    """No eos and no stop token before `minimum` emitted tokens."""

    def __init__(self, minimum: int, stops: Iterable[int]) -> None:
        self._minimum = minimum
        self._stops = np.array(sorted(stops), dtype=np.intp)

    @classmethod
    def make(cls, admission: Admission, vocabulary: Vocabulary) -> Self | None:
        params = admission.params
        stops = vocabulary.eos_ids.union(params.stop_token_ids)
        # A vocabulary of nothing but stops must still give a token.
        needed = params.min_tokens > 0 and 0 < len(stops) < vocabulary.size
        return cls(params.min_tokens, stops) if needed else None

    def apply(self, logits: Row, position: int) -> None:
        if position < self._minimum:
            logits[self._stops] = -np.inf

    def accept(self, token_id: int) -> None:
        pass


class RepetitionPenalty:
    """Every id of prompt or answer: a positive logit is divided, a negative one multiplied."""

    def __init__(self, penalty: float, ids: Iterable[int]) -> None:
        self._penalty = np.float32(penalty)
        self._seen = TokenCounts(ids)

    @classmethod
    def make(cls, admission: Admission, _vocabulary: Vocabulary) -> Self | None:
        penalty = admission.params.repetition_penalty
        ids = (*admission.prompt_ids, *admission.emitted_ids)
        return cls(penalty, ids) if penalty != 1.0 else None

    def apply(self, logits: Row, position: int) -> None:
        seen = logits[self._seen.ids]
        logits[self._seen.ids] = np.where(seen > 0, seen / self._penalty, seen * self._penalty)

    def accept(self, token_id: int) -> None:
        self._seen.add(token_id)


class OutputPenalty:
    """Every emitted id: minus `frequency` for each time it came, minus `presence` once."""

    def __init__(self, frequency: float, presence: float, ids: Iterable[int]) -> None:
        self._frequency = np.float32(frequency)
        self._presence = np.float32(presence)
        self._seen = TokenCounts(ids)

    @classmethod
    def make(cls, admission: Admission, _vocabulary: Vocabulary) -> Self | None:
        params = admission.params
        frequency, presence = params.frequency_penalty, params.presence_penalty
        needed = frequency != 0.0 or presence != 0.0
        return cls(frequency, presence, admission.emitted_ids) if needed else None

    def apply(self, logits: Row, position: int) -> None:
        logits[self._seen.ids] -= self._frequency * self._seen.counts + self._presence

    def accept(self, token_id: int) -> None:
        self._seen.add(token_id)


MAKERS = (LogitBias.make, MinTokens.make, RepetitionPenalty.make, OutputPenalty.make)
"""In the order in which they are applied."""


def make_processors(admission: Admission, vocabulary: Vocabulary) -> tuple[LogitsProcessor, ...]:
    """The processors that these parameters need; most streams need none."""
    made = (make(admission, vocabulary) for make in MAKERS)
    return tuple(processor for processor in made if processor is not None)


class TokenCounts:
    """Distinct ids and how often each came, in arrays that grow by doubling."""

    def __init__(self, ids: Iterable[int]) -> None:
        known, counts = np.unique(np.fromiter(ids, dtype=np.intp), return_counts=True)
        self._ids = known
        self._counts = counts.astype(np.float32)
        self._place = {int(token_id): place for place, token_id in enumerate(known)}

    @property
    def ids(self) -> Ids:
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> Row:
        return self._counts[: len(self._place)]

    def add(self, token_id: int) -> None:
        place = self._place.setdefault(token_id, len(self._place))
        if place == len(self._ids):
            self._grow()
        self._ids[place] = token_id
        self._counts[place] += 1

    def _grow(self) -> None:
        room = max(16, len(self._ids))
        self._ids = np.concatenate([self._ids, np.zeros(room, dtype=np.intp)])
        self._counts = np.concatenate([self._counts, np.zeros(room, dtype=np.float32)])
