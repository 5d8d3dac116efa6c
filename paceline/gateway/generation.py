"""One request's streams, from their submission to the last token that its client wants."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from paceline.gateway.driver import LiveStream
from paceline.gateway.drivers import Drivers
from paceline.gateway.library import ModelText
from paceline.gateway.streams import Delta, Stream
from paceline.gateway.text import StopText
from paceline.types.ids import StreamId
from paceline.types.stream import SamplingParams


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What a request comes to: `choices` answers to each of its prompts."""

    request_id: str
    text: ModelText
    prompts: tuple[tuple[int, ...], ...]
    params: tuple[SamplingParams, ...]
    """For each prompt, those of choice 0."""
    choices: int
    stops: tuple[str, ...]
    include_stop: bool
    opened_at: float
    deadline: float


class Generation:
    """Streams numbered as OpenAI numbers choices: all of the first prompt, then of the second."""

    def __init__(self, work: Work, drivers: Drivers) -> None:
        """Raises Overloaded; nothing is submitted then."""
        self.work = work
        self._drivers = drivers
        self._wake = asyncio.Event()
        self.lives = tuple(
            self._live(prompt_ids, msgspec.structs.replace(params, choice=choice), index)
            for index, (prompt_ids, params, choice) in enumerate(_choices(work))
        )
        self._open = dict(enumerate(self.lives))
        drivers.carry(self.lives)

    @property
    def done(self) -> bool:
        """Every choice's end has been taken."""
        return not self._open

    @property
    def usage(self) -> Usage:
        """A prompt counts once, however many choices it has."""
        read = sum(len(prompt_ids) for prompt_ids in self.work.prompts)
        made = sum(len(live.stream.emitted_ids) for live in self.lives)
        return Usage(read, made, read + made)

    @property
    def first_token_s(self) -> float | None:
        """From the request to the first token of any choice."""
        times = [live.first_token_at for live in self.lives if live.first_token_at is not None]
        return min(times) - self.work.opened_at if times else None

    @property
    def numerics_id(self) -> str:
        """Empty before any choice is on a line."""
        return next((live.numerics_id for live in self.lives if live.numerics_id), "")

    def nudge(self) -> None:
        """Has a `gained` that waits return, though it be with nothing."""
        self._wake.set()

    async def gained(self) -> list[tuple[int, Delta]]:
        """What choices have gained, as (index, delta); waits for it, to the request's deadline.

        Raises the error of the first choice that failed, after all that came before it.
        """
        await self._wake.wait()
        self._wake.clear()
        gained = list(self._take())
        error = next((live.error for live in self.lives if live.error is not None), None)
        if error is not None:
            if not gained:
                raise error
            self._wake.set()
        return gained

    def close(self) -> None:
        """Nobody wants more of it: what still runs is cancelled. Safe to repeat."""
        for live in self.lives:
            self._drivers.drop(live)

    def _take(self) -> Iterable[tuple[int, Delta]]:
        for index, live in tuple(self._open.items()):
            delta = live.stream.take()
            if delta is None:
                continue
            if delta.finish_reason is not None:
                del self._open[index]
            yield index, delta

    def _live(self, prompt_ids: tuple[int, ...], params: SamplingParams, index: int) -> LiveStream:
        work, tokenizer = self.work, self.work.text.tokenizer
        eos_ids = frozenset() if params.ignore_eos else tokenizer.eos_ids
        stream = Stream(
            stream_id=StreamId(f"{work.request_id}.{index}"),
            prompt_ids=prompt_ids,
            params=params,
            end_ids=eos_ids | frozenset(params.stop_token_ids),
            detokenizer=tokenizer.detokenizer(),
            stops=StopText(work.stops, work.include_stop),
        )
        return LiveStream(
            stream,
            model=work.text.name,
            now=work.opened_at,
            deadline=work.deadline,
            wake=self._wake.set,
        )


def _choices(work: Work) -> Iterable[tuple[tuple[int, ...], SamplingParams, int]]:
    for prompt_ids, params in zip(work.prompts, work.params, strict=True):
        for choice in range(work.choices):
            yield prompt_ids, params, choice
