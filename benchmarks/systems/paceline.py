"""Paceline's engine: a stage, its scheduler and its sampler, in one process without a network."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import quality
from benchmarks.work import Outcome, Work
from benchmarks.worker import serve
from paceline.checkpoint import read_eos_ids
from paceline.checkpoint.facts import model_facts
from paceline.engine import kernels
from paceline.engine.lookup import GUESS_ROWS
from paceline.engine.sampler import Sampler
from paceline.engine.scheduler import Scheduler
from paceline.engine.stage import Stage
from paceline.types.ids import StreamId
from paceline.types.model import PAGE_TOKENS, Shard
from paceline.types.step import Sampled
from paceline.types.stream import SamplingParams, StreamRecord, Token

ROWS = 4096
"""Rows per step: prompts of a benchmark are read in one go, as the peers read them."""
SPARE_PAGES = 16


class Paceline:
    def start(self, options: dict[str, Any]) -> dict[str, Any]:
        self._checkpoint = Path(options["checkpoint"])
        self._dtype = options["dtype"]
        self._guesses = options["guesses"]
        torch.set_num_threads(options["threads"])
        if (built := kernels.load()) is not None:
            built.set_threads(options["threads"])
        self._facts = model_facts(self._checkpoint, "model")
        self._eos_ids = read_eos_ids(self._checkpoint)
        layers = len(self._facts.layer_params)
        self._pages = options["tokens"] // PAGE_TOKENS + SPARE_PAGES
        self._stage = Stage.load(
            self._checkpoint,
            Shard(start=0, stop=layers, layers=layers),
            dtype=self._dtype,
            kv_pages=self._pages,
        )
        return {"numerics": self._stage.numerics_id, "weight_bytes": self._stage.weight_bytes}

    def run(self, work: Work) -> Outcome:
        scheduler = self._scheduler(work)
        sampler = Sampler(self._facts.vocab_size, self._eos_ids, self._stage.draw)
        answers: dict[StreamId, list[int]] = {StreamId(f"s{i}"): [] for i in range(work.streams)}
        times: list[float] = []
        began = time.perf_counter()
        prefilled, early = 0.0, 0
        while not scheduler.idle:
            for token in self._step(scheduler, sampler):
                answers[token.stream_id].append(token.id)
            times.append(time.perf_counter())
            if not prefilled and all(answers.values()):
                prefilled, early = times[-1], sum(map(len, answers.values()))
        after = [t for t in times if t >= prefilled]
        return Outcome(
            prefill_s=prefilled - began,
            decode_s=times[-1] - prefilled,
            decoded=sum(map(len, answers.values())) - early,
            answers=list(answers.values()),
            gaps_s=[b - a for a, b in itertools.pairwise(after)],
        )

    def perplexity(self, ids: list[int]) -> float:
        return quality.perplexity(self._checkpoint, ids, self._dtype)

    def _scheduler(self, work: Work) -> Scheduler:
        facts = self._facts
        scheduler = Scheduler(
            pages=self._pages,
            max_context=facts.max_context,
            vocab_size=facts.vocab_size,
            eos_ids=self._eos_ids,
            row_budget=ROWS,
            guess_rows=GUESS_ROWS if self._guesses else 0,
        )
        params = SamplingParams(max_tokens=work.new, seed=0, temperature=0.0, ignore_eos=True)
        for i, prompt in enumerate(work.prompts):
            scheduler.submit(
                StreamRecord(
                    stream_id=StreamId(f"s{i}"),
                    attempt=0,
                    prompt_ids=tuple(prompt),
                    params=params,
                )
            )
        return scheduler

    def _step(self, scheduler: Scheduler, sampler: Sampler) -> tuple[Token, ...]:
        step = scheduler.schedule()
        assert step is not None
        for slot in step.freed:
            sampler.free(slot)
        for admission in step.admitted:
            sampler.admit(admission)
        if not step.spans:
            return scheduler.complete(Sampled(number=step.number)).tokens
        logits = self._stage.forward(step.spans, torch.tensor(step.token_ids, dtype=torch.int64))
        tokens = tuple(sampler.sample(step.sampled_slots, logits, step.guesses))
        return scheduler.complete(Sampled(number=step.number, tokens=tokens)).tokens


if __name__ == "__main__":
    serve(Paceline())
