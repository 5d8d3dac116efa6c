"""Spans of a step, checked and laid out flat for the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paceline.types.errors import EngineError
from paceline.types.model import PAGE_TOKENS
from paceline.types.step import Span


@dataclass(frozen=True, slots=True)
class Limits:
    """What spans must keep within."""

    kv_pages: int
    max_context: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of all spans, one after the other."""

    row_pos: Tensor
    """int64 [rows]: absolute positions."""
    row_table: Tensor
    """int32 [rows]: index into `tables`."""
    tables: Tensor
    """int32 [spans, pages], filled up with page 0."""
    sampled: Tensor
    """int64: rows that need logits."""

    @property
    def rows(self) -> int:
        return len(self.row_pos)


def lay_out(spans: Sequence[Span], limits: Limits) -> Batch:
    """Raises EngineError when spans contradict each other or the limits."""
    _check(spans, limits)
    row_pos: list[int] = []
    row_table: list[int] = []
    sampled: list[int] = []
    for index, span in enumerate(spans):
        row_pos.extend(range(span.start, span.start + span.count))
        row_table.extend([index] * span.count)
        if span.sample:
            sampled.append(len(row_pos) - 1)
    return Batch(
        row_pos=torch.tensor(row_pos, dtype=torch.int64),
        row_table=torch.tensor(row_table, dtype=torch.int32),
        tables=_tables(spans),
        sampled=torch.tensor(sampled, dtype=torch.int64),
    )


def _tables(spans: Sequence[Span]) -> Tensor:
    width = max((len(span.pages) for span in spans), default=0)
    return torch.tensor(
        [span.pages + (0,) * (width - len(span.pages)) for span in spans], dtype=torch.int32
    ).view(len(spans), width)


def _check(spans: Sequence[Span], limits: Limits) -> None:
    slots: set[int] = set()
    written: set[int] = set()
    for span in spans:
        end = span.start + span.count
        if span.start < 0 or span.count < 1:
            raise EngineError(f"slot {span.slot}: no rows [{span.start}, {end})")
        if end > min(limits.max_context, limits.kv_pages * PAGE_TOKENS):
            raise EngineError(
                f"slot {span.slot}: position {end - 1} is beyond the context of "
                f"{limits.max_context} tokens or the {limits.kv_pages} KV pages"
            )
        if len(span.pages) * PAGE_TOKENS < end:
            raise EngineError(f"slot {span.slot}: {len(span.pages)} pages do not cover {end} rows")
        if min(span.pages) < 0 or max(span.pages) >= limits.kv_pages:
            raise EngineError(f"slot {span.slot}: a page is not one of {limits.kv_pages}")
        if span.slot in slots:
            raise EngineError(f"slot {span.slot}: two spans in one step")
        slots.add(span.slot)
        mine = span.pages[span.start // PAGE_TOKENS : (end - 1) // PAGE_TOKENS + 1]
        if len(set(mine)) < len(mine) or not written.isdisjoint(mine):
            raise EngineError(f"slot {span.slot}: a page would be written twice in one step")
        written.update(mine)
