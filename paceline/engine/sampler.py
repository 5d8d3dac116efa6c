"""The sampler of the last rank: from rows of logits to tokens.

A token is a pure function of (parameters, prompt ids, emitted ids, logits of its row): whatever
the batch, the order of its rows, or how often the stream was resumed. Processors run in the
order logit_bias, min_tokens, repetition penalty, frequency and presence penalty; then
temperature, min_p, top_k, top_p, draw. Logprobs are those of the model's own distribution, before
any of these (the default of vLLM's API).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from paceline.engine.sampling.draw import GREEDY_BELOW, Ask, Draw, draw_rows, logprobs
from paceline.engine.sampling.processors import Row, Vocabulary, make_processors
from paceline.engine.sampling.uniform import uniform
from paceline.types.errors import EngineError, InvalidRequest
from paceline.types.limits import validate_ids, validate_params
from paceline.types.step import Admission, SampledToken

NO_GUESSES: Mapping[int, tuple[int, ...]] = {}


class Sampler:
    """Keeps one state per slot, from `admit` to `free`."""

    def __init__(self, vocab_size: int, eos_ids: frozenset[int], draw: Draw = draw_rows) -> None:
        self._draw = draw
        self._vocabulary = Vocabulary(vocab_size, eos_ids)
        self._slots: dict[int, _SlotSampler] = {}

    def admit(self, admission: Admission) -> None:
        """Takes a slot in. Raises EngineError where its parameters or ids are out of range or the
        slot is known already."""
        if admission.slot in self._slots:
            raise EngineError(f"slot {admission.slot} was admitted twice; free it first")
        try:
            validate_params(admission.params, self._vocabulary.size)
            validate_ids("prompt_ids", admission.prompt_ids, self._vocabulary.size)
            validate_ids("emitted_ids", admission.emitted_ids, self._vocabulary.size)
        except InvalidRequest as error:
            raise EngineError(f"slot {admission.slot} cannot be sampled: {error}") from error
        self._slots[admission.slot] = _SlotSampler(admission, self._vocabulary)

    def free(self, slot: int) -> None:
        """Forgets a slot; an unknown one changes nothing."""
        self._slots.pop(slot, None)

    def sample(
        self,
        slots: Sequence[int],
        logits: torch.Tensor,
        guesses: Mapping[int, tuple[int, ...]] = NO_GUESSES,
    ) -> list[SampledToken]:
        """Draws one token for each slot from its row of logits [rows, vocab], float32, and moves
        the slot on by it. A slot with guesses has a row more for each of them, and goes on to it
        when the token drawn is the one guessed.

        Raises EngineError, and then has moved no slot, where a slot is unknown or named twice, or
        the logits have another shape or dtype. Where the largest of a row is not finite it raises
        too, and slots with guesses may have moved.
        """
        samplers = self._samplers(slots)
        guessed = [guesses.get(slot, ()) for slot in slots]
        rows = self._rows(len(slots) + sum(map(len, guessed)), logits)
        runs: list[_Run] = []
        start = 0
        for sampler, ahead in zip(samplers, guessed, strict=True):
            runs.append(_Run(sampler, ahead, rows[start : start + len(ahead) + 1]))
            start += len(ahead) + 1
        going = runs
        while going:
            ids = self._draw([run.ask() for run in going])
            going = [run for run, token_id in zip(going, ids, strict=True) if run.take(token_id)]
        return [token for run in runs for token in run.drawn]

    def _samplers(self, slots: Sequence[int]) -> list[_SlotSampler]:
        unknown = [slot for slot in slots if slot not in self._slots]
        if unknown:
            raise EngineError(f"slots {unknown} were not admitted; admit them before sampling")
        if len(set(slots)) != len(slots):
            raise EngineError(f"slots {list(slots)}: one is named twice in a step")
        return [self._slots[slot] for slot in slots]

    def _rows(self, count: int, logits: torch.Tensor) -> NDArray[np.float32]:
        wanted = (count, self._vocabulary.size)
        if tuple(logits.shape) != wanted or logits.dtype != torch.float32:
            raise EngineError(
                f"logits must be float32 {wanted}, not {logits.dtype} {tuple(logits.shape)}"
            )
        rows: NDArray[np.float32] = logits.numpy(force=True)
        return rows


class _SlotSampler:
    """What one stream has come to: `position` tokens emitted, and its processors' state."""

    __slots__ = ("_params", "_position", "_processors", "_slot")

    def __init__(self, admission: Admission, vocabulary: Vocabulary) -> None:
        self._slot = admission.slot
        self._params = admission.params
        self._position = len(admission.emitted_ids)
        self._processors = make_processors(admission, vocabulary)

    def ask(self, row: Row) -> Ask:
        """For the next token from the model's logits [vocab]."""
        if self._processors:
            row = row.copy()
            for processor in self._processors:
                processor.apply(row, self._position)
        params = self._params
        greedy = params.temperature < GREEDY_BELOW
        u = 0.0 if greedy else uniform(params.seed, params.choice, self._position)
        return Ask(row, params, u)

    def take(self, row: Row, token_id: int) -> SampledToken:
        """Goes on by the token that was drawn from the model's logits [vocab]."""
        logprob: float | None = None
        top: tuple[tuple[int, float], ...] = ()
        if self._params.logprobs is not None:
            logprob, top = logprobs(row, token_id, self._params.logprobs)
        token = SampledToken(self._slot, self._position, token_id, logprob, top)
        self._position += 1
        for processor in self._processors:
            processor.accept(token_id)
        return token


class _Run:
    """A slot's rows of a step: drawn from one after the other, as long as the guesses are right."""

    __slots__ = ("_guesses", "_rows", "_sampler", "drawn")

    def __init__(
        self, sampler: _SlotSampler, guesses: tuple[int, ...], rows: NDArray[np.float32]
    ) -> None:
        self.drawn: list[SampledToken] = []
        self._sampler = sampler
        self._guesses = guesses
        self._rows = rows

    def ask(self) -> Ask:
        return self._sampler.ask(self._rows[len(self.drawn)])

    def take(self, token_id: int) -> bool:
        """Whether the row behind it was computed for this token."""
        ahead = self._guesses[len(self.drawn) :]
        self.drawn.append(self._sampler.take(self._rows[len(self.drawn)], token_id))
        return bool(ahead) and ahead[0] == token_id
