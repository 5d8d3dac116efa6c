"""A line of stages in one process, and the drivers that put sequences through it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch

from paceline.engine.numerics import OpsChoice
from paceline.engine.stage import Stage
from paceline.types.model import PAGE_TOKENS, Shard
from paceline.types.step import Span

Logits = dict[int, torch.Tensor]
"""By position."""


class Line:
    """Stages of `sizes` layers each."""

    def __init__(
        self,
        checkpoint: Path,
        sizes: Sequence[int],
        ops: OpsChoice,
        kv_pages: int = 24,
        dtype: str = "float32",
    ) -> None:
        stops = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        self.kv_pages = kv_pages
        self.stages = [
            Stage.load(
                checkpoint,
                Shard(start=stop - size, stop=stop, layers=stops[-1]),
                kv_pages=kv_pages,
                ops=ops,
                dtype=dtype,
            )
            for stop, size in zip(stops, sizes, strict=True)
        ]

    def step(self, spans: Sequence[Span], ids: Sequence[int]) -> torch.Tensor:
        x = torch.tensor(ids, dtype=torch.int64)
        for stage in self.stages:
            x = stage.forward(spans, x)
        return x


def alone(line: Line, ids: Sequence[int], chunk: int, pages: Sequence[int] = range(24)) -> Logits:
    """One sequence in chunks; logits at the end of each."""
    found: Logits = {}
    for start in range(0, len(ids), chunk):
        part = ids[start : start + chunk]
        table = tuple(pages[: (start + len(part) - 1) // PAGE_TOKENS + 1])
        logits = line.step([Span(0, start, len(part), table, True)], part)
        found[start + len(part) - 1] = logits[0]
    return found


def together(line: Line, sequences: Sequence[Sequence[int]], seed: int) -> list[Logits]:
    """All sequences at once, in random chunks, in random order, on scattered pages."""
    draw = random.Random(seed)
    free = list(range(line.kv_pages))
    draw.shuffle(free)
    tables: list[list[int]] = [[] for _ in sequences]
    done = [0] * len(sequences)
    found: list[Logits] = [{} for _ in sequences]
    while waiting := [i for i, ids in enumerate(sequences) if done[i] < len(ids)]:
        draw.shuffle(waiting)
        spans, rows = [], []
        for i in waiting[: draw.randint(1, len(waiting))]:
            count = min(draw.choice((1, 1, 2, 7, 17, 64, 90)), len(sequences[i]) - done[i])
            while len(tables[i]) * PAGE_TOKENS < done[i] + count:
                tables[i].append(free.pop())
            sample = draw.random() < 0.7
            spans.append(Span(i, done[i], count, tuple(tables[i]), sample))
            rows += sequences[i][done[i] : done[i] + count]
            done[i] += count
        sampled = [span for span in spans if span.sample]
        for span, logits in zip(sampled, line.step(spans, rows), strict=True):
            found[span.slot][span.start + span.count - 1] = logits
    return found
