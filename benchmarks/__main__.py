"""`make bench`: the engine on the default model, and the planner; medians of interleaved runs.

`python -m benchmarks planner`: the planner alone, in full.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch

from benchmarks import planner
from paceline.checkpoint import DEFAULT_MODEL, Store, pull, read_eos_ids
from paceline.checkpoint.facts import model_facts
from paceline.engine.sampler import Sampler
from paceline.engine.scheduler import Scheduler
from paceline.engine.stage import Stage
from paceline.planner import NodeBudget, plan
from paceline.process.home import Home
from paceline.types.ids import InstanceId, NodeName, StreamId
from paceline.types.instance import InstanceWish
from paceline.types.model import ModelFacts, Shard
from paceline.types.step import Sampled
from paceline.types.stream import SamplingParams, StreamRecord

ROUNDS = 3
NEW_TOKENS = 32
PROMPT = 32
LONG_PROMPT = 500


def main() -> None:
    if "planner" in sys.argv:
        planner.main()
        return
    directory = pull(DEFAULT_MODEL, Store(Home().path))
    facts = model_facts(directory, DEFAULT_MODEL)
    whole = Shard(start=0, stop=len(facts.layer_params), layers=len(facts.layer_params))
    eos_ids = read_eos_ids(directory)
    stages = {
        ops: Stage.load(directory, whole, kv_pages=256, ops=ops) for ops in ("auto", "reference")
    }

    def generate(ops: str, streams: int, prompt: int, new: int) -> Callable[[], float]:
        return lambda: _tokens_per_s(stages[ops], facts, eos_ids, streams, prompt, new)

    work = {
        "decode, 1 stream, tok/s": generate("auto", 1, PROMPT, NEW_TOKENS),
        "decode, 8 streams, tok/s": generate("auto", 8, PROMPT, NEW_TOKENS),
        "decode, 32 streams, tok/s": generate("auto", 32, PROMPT, NEW_TOKENS),
        "prefill, 500 tokens, tok/s": generate("auto", 1, LONG_PROMPT, 1),
        "decode, 1 stream, without C kernels, tok/s": generate("reference", 1, PROMPT, 4),
        "plan over 64 nodes, ms": lambda: _plan_ms(facts, 64),
    }
    measured: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name, run in work.items():
            measured[name].append(run())
    report = {
        "numerics": stages["auto"].numerics_id,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "medians": {name: round(statistics.median(v), 1) for name, v in measured.items()},
        "spread": {name: [round(min(v), 1), round(max(v), 1)] for name, v in measured.items()},
    }
    if "--json" in sys.argv:
        print(json.dumps(report))
        return
    print(f"{report['numerics']}, {report['threads']} threads")
    for name, values in measured.items():
        low, mid, high = min(values), statistics.median(values), max(values)
        print(f"{name:<45} {mid:8.1f}   ({low:.1f} to {high:.1f})")


def _tokens_per_s(
    stage: Stage, facts: ModelFacts, eos_ids: frozenset[int], streams: int, prompt: int, new: int
) -> float:
    """New tokens per second after the first step for decoding, prompt tokens for prefill."""
    scheduler = Scheduler(
        pages=256, max_context=facts.max_context, vocab_size=facts.vocab_size, eos_ids=eos_ids,
        row_budget=4096,
    )  # fmt: skip
    sampler = Sampler(facts.vocab_size, eos_ids)
    params = SamplingParams(max_tokens=new, seed=0, temperature=0.0, ignore_eos=True)
    for i in range(streams):
        ids = tuple((7 * i + 13 * j) % 1000 + 100 for j in range(prompt))
        scheduler.submit(
            StreamRecord(stream_id=StreamId(f"s{i}"), attempt=0, prompt_ids=ids, params=params)
        )
    began = time.perf_counter()
    _step(stage, sampler, scheduler)
    prefilled = time.perf_counter()
    if new == 1:
        return streams * prompt / (prefilled - began)
    made = 0
    while scheduler.running:
        made += _step(stage, sampler, scheduler)
    return made / (time.perf_counter() - prefilled)


def _step(stage: Stage, sampler: Sampler, scheduler: Scheduler) -> int:
    step = scheduler.schedule()
    assert step is not None
    for slot in step.freed:
        sampler.free(slot)
    for admission in step.admitted:
        sampler.admit(admission)
    logits = stage.forward(step.spans, torch.tensor(step.token_ids, dtype=torch.int64))
    slots = [span.slot for span in step.spans if span.sample]
    tokens = tuple(sampler.sample(slots, logits)) if slots else ()
    return len(scheduler.complete(Sampled(number=step.number, tokens=tokens)).tokens)


def _plan_ms(facts: ModelFacts, count: int) -> float:
    nodes = [
        NodeBudget(name=NodeName(f"n{i}"), memory_bytes=2**29, free_bytes=2**29)
        for i in range(count)
    ]
    began = time.perf_counter()
    plan(facts, nodes, InstanceWish(id=InstanceId("i"), model="m", kv_tokens=1024))
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
