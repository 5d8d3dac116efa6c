"""How far quantised weights are from float32, over a fixed text.

Perplexity is of each next token given all before it; KL is of their distribution from float32's,
in nats, its mean over all positions; agreement is of the most likely token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from paceline.checkpoint.facts import model_facts
from paceline.engine.stage import Stage
from paceline.types.model import PAGE_TOKENS, Shard
from paceline.types.step import Span

MOST_PERPLEXITY = 1.01
"""The gate: int8's perplexity over float32's, at most."""
MOST_KL = 0.015

CHUNK = 512


class Quality(msgspec.Struct, frozen=True):
    tokens: int
    """Predicted ones."""
    perplexity: float
    baseline: float
    """float32's perplexity."""
    kl: float
    agreement: float

    @property
    def ratio(self) -> float:
        return self.perplexity / self.baseline

    @property
    def passes(self) -> bool:
        return self.ratio <= MOST_PERPLEXITY and self.kl <= MOST_KL


def compare(checkpoint: Path, ids: Sequence[int], dtype: str) -> Quality:
    """Two models at a time in memory, and the logits of a few rows."""
    truth = torch.tensor(ids)
    losses = torch.zeros(2, dtype=torch.float64)
    kl = 0.0
    agreed = 0
    pairs = zip(
        all_logits(checkpoint, ids, "float32"), all_logits(checkpoint, ids, dtype), strict=True
    )
    for (positions, expected), (_, found) in pairs:
        has_next = positions + 1 < len(ids)
        p, q = (x[has_next].log_softmax(1) for x in (expected, found))
        nexts = truth[positions[has_next] + 1, None]
        losses -= torch.stack([one.gather(1, nexts).double().sum() for one in (p, q)])
        kl += float((p.exp() * (p - q)).sum(1).double().sum())
        agreed += int((p.argmax(1) == q.argmax(1)).sum())
    count = len(ids) - 1
    baseline, perplexity = (math.exp(float(loss) / count) for loss in losses)
    return Quality(count, perplexity, baseline, kl / count, agreed / count)


def perplexity(checkpoint: Path, ids: Sequence[int], dtype: str) -> float:
    truth, loss = torch.tensor(ids), 0.0
    for positions, logits in all_logits(checkpoint, ids, dtype):
        has_next = positions + 1 < len(ids)
        nexts = truth[positions[has_next] + 1, None]
        loss -= float(logits[has_next].log_softmax(1).gather(1, nexts).double().sum())
    return math.exp(loss / (len(ids) - 1))


def all_logits(checkpoint: Path, ids: Sequence[int], dtype: str) -> Iterator[tuple[Tensor, Tensor]]:
    """(positions [n], logits [n, vocab]) until every position had its turn.

    A stage gives logits for the last row of a span only, and takes one span of each page in a
    step. So all layers but the last are run in chunks, as hidden states are given for every row;
    the last layer sees the whole text once, to fill its KV, and then one row of each page at a
    time. A row's bits depend on neither.
    """
    layers = len(model_facts(checkpoint, "model").layer_params)
    pages = tuple(range(-(-len(ids) // PAGE_TOKENS)))
    lower, last = (
        Stage.load(
            checkpoint, Shard(start=a, stop=b, layers=layers), kv_pages=len(pages), dtype=dtype
        )
        for a, b in ((0, layers - 1), (layers - 1, layers))
    )
    hidden = []
    for start in range(0, len(ids), CHUNK):
        part = torch.tensor(ids[start : start + CHUNK])
        span = [Span(0, start, len(part), pages, False)]
        hidden.append(lower.forward(span, part))
        last.forward(span, hidden[-1])
    rows = torch.cat(hidden)
    for offset in range(PAGE_TOKENS):
        positions = torch.arange(offset, len(ids), PAGE_TOKENS)
        spans = [
            Span(slot, position, 1, pages[: slot + 1], True)
            for slot, position in enumerate(positions.tolist())
        ]
        yield positions, last.forward(spans, rows[positions])
