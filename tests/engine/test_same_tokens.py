"""The real model writes the same tokens whatever happens to a stream, greedy and seeded: alone, in
a batch of 32, over one, two and three ranks, after giving way, on pages that another filled, and
with guesses."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from tokenizers import Tokenizer

from paceline.checkpoint import read_eos_ids
from paceline.engine.lookup import GUESS_ROWS
from paceline.engine.sampler import Sampler
from paceline.engine.scheduler import Scheduler
from paceline.types.ids import StreamId
from paceline.types.model import PAGE_TOKENS
from paceline.types.step import Sampled, Step
from paceline.types.stream import SamplingParams, StreamRecord
from tests.engine.conftest import DTYPES, OPS
from tests.engine.line import Line
from tests.support.models import smollm2_dir

SIZES = {1: [30], 2: [13, 17], 3: [8, 14, 8]}
VOCAB = 49152
PAGES = 80
PROMPT_TOKENS, NEW_TOKENS = 124, 9
"""An answer that needs a page which its prompt did not."""

TEXT = (
    "The city stands where two rivers meet. Its oldest bridge was built of wood, then of stone, "
    "and has been rebuilt four times since. Every spring the water rises, and the people who live "
    "near the banks carry their chairs and books upstairs. In the market they still tell of the "
    "year when boats were tied to the windows of the town hall. A small museum keeps the marks "
    "that the floods left on doors, with dates cut into the wood by hand, and on the first of May "
    "the children walk across the bridge with paper boats. Nobody remembers who began with it, and "
    "nobody would be the first to stop."
)


class Traffic:
    """A scheduler before a line of stages; steps go through them in order."""

    def __init__(
        self,
        line: Line,
        *,
        ranks: int,
        pages: int = PAGES,
        row_budget: int = 160,
        guess_rows: int = 0,
    ) -> None:
        self._line = line
        self._eos_ids = read_eos_ids(smollm2_dir())
        self.scheduler = Scheduler(
            pages=pages, max_context=2048, vocab_size=VOCAB, eos_ids=self._eos_ids,
            row_budget=row_budget, guess_rows=guess_rows, batches_in_flight=ranks,
        )  # fmt: skip
        self._sampler = Sampler(VOCAB, self._eos_ids, line.stages[-1].draw)
        self.admissions = 0
        self.most_spans = 0

    def run(self, records: list[StreamRecord]) -> dict[StreamId, list[int]]:
        for record in records:
            assert self.scheduler.submit(record) is None
        ids: dict[StreamId, list[int]] = {record.stream_id: [] for record in records}
        out: deque[Step] = deque()
        while not self.scheduler.idle:
            while (step := self.scheduler.schedule()) is not None:
                out.append(step)
            for token in self.scheduler.complete(self._through(out.popleft())).tokens:
                ids[token.stream_id].append(token.id)
        return ids

    def _through(self, step: Step) -> Sampled:
        self.admissions += len(step.admitted)
        self.most_spans = max(self.most_spans, len(step.spans))
        for slot in step.freed:
            self._sampler.free(slot)
        for admission in step.admitted:
            self._sampler.admit(admission)
        if not step.spans:
            return Sampled(number=step.number)
        with torch.inference_mode():
            logits = self._line.step(step.spans, step.token_ids)
        drawn = self._sampler.sample(step.sampled_slots, logits, step.guesses)
        return Sampled(number=step.number, tokens=tuple(drawn))


def _record(name: str, prompt: list[int], new: int = NEW_TOKENS, **params: float) -> StreamRecord:
    given = {"max_tokens": new, "seed": 11, "ignore_eos": True} | params
    return StreamRecord(
        stream_id=StreamId(name), attempt=0, prompt_ids=tuple(prompt),
        params=SamplingParams(**given),
    )  # fmt: skip


def _watched(name: str) -> list[StreamRecord]:
    ids = Tokenizer.from_file(str(smollm2_dir() / "tokenizer.json")).encode(TEXT).ids
    assert len(ids) > PROMPT_TOKENS
    return [
        _record(f"greedy-{name}", ids[:PROMPT_TOKENS], temperature=0.0),
        _record(f"seeded-{name}", ids[1 : PROMPT_TOKENS + 1], temperature=1.0, top_p=0.95),
    ]


def _company(count: int) -> list[StreamRecord]:
    return [
        _record(f"other-{i}", [1 + i, 500 + 7 * i], new=4, temperature=0.7) for i in range(count)
    ]


@pytest.mark.parametrize("dtype", [*DTYPES, "int4"])
def test_the_same_tokens_whatever_happens(dtype: str) -> None:
    truth: list[list[int]] = []
    for ranks, sizes in SIZES.items():
        line = Line(smollm2_dir(), sizes, OPS[-1], kv_pages=PAGES, dtype=dtype)
        if not truth:
            alone = Traffic(line, ranks=1)
            truth = [alone.run([record])[record.stream_id] for record in _watched("alone")]
            assert all(len(ids) == NEW_TOKENS for ids in truth)
            assert truth[0] != truth[1]

        traffic = Traffic(line, ranks=ranks)
        first, second = _watched("batch")
        found = traffic.run([*_company(15), first, *_company(30)[15:], second])
        assert [found[first.stream_id], found[second.stream_id]] == truth, (ranks, "in a batch")
        assert traffic.most_spans >= 32 // ranks

        hits = traffic.scheduler.prefix_hits
        again = traffic.run(_watched("again"))
        assert list(again.values()) == truth, (ranks, "on pages that another filled")
        assert traffic.scheduler.prefix_hits > hits

        # The last comer has to give way: now the one, now the other.
        narrow = Traffic(line, ranks=ranks, pages=5)
        found = narrow.run(_watched("narrow")[:: 1 if ranks % 2 else -1])
        assert narrow.admissions == 3
        in_order = [found[record.stream_id] for record in _watched("narrow")]
        assert in_order == truth, (ranks, "after giving way")


def test_the_same_tokens_with_guesses() -> None:
    """Some of which are right, and some wrong; the pages that right ones filled are as good as
    others."""
    line = Line(smollm2_dir(), SIZES[2], OPS[-1], kv_pages=PAGES, dtype="int8")
    ids = Tokenizer.from_file(str(smollm2_dir() / "tokenizer.json")).encode(f"{TEXT} The").ids
    asked = [
        _record(name, ids, new=70, temperature=temperature)
        for name, temperature in (("greedy", 0.0), ("seeded", 0.5))
    ]
    truth = Traffic(line, ranks=1).run(asked)
    longer = [_record(f"{name} again", [*ids, *truth[name]], temperature=0.0) for name in truth]
    after = Traffic(line, ranks=1).run(longer)
    for ranks in (1, 2):
        guessing = Traffic(line, ranks=ranks, guess_rows=GUESS_ROWS)
        assert guessing.run(asked) == truth
        assert 0 < guessing.scheduler.guesses_right < guessing.scheduler.guesses_made
        hits = guessing.scheduler.prefix_hits
        assert guessing.run(longer) == after
        whole = (len(ids) + 69) // PAGE_TOKENS
        assert guessing.scheduler.prefix_hits - hits == len(longer) * whole * PAGE_TOKENS
