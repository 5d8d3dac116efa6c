"""Spans of a step, checked and laid out flat for the decoder."""

from __future__ import annotations

from array import array
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
    """Rows of all spans, one after the other; there are some.

    Arrays, of which tensors are views: torch would cost a step more than all of its bookkeeping.
    """

    positions: array[int]
    """int64, as `row_pos`."""
    table_of_row: array[int]
    """int32, as `row_table`."""
    page_ids: array[int]
    """int32, as `tables`, row after row."""
    table_shape: tuple[int, int]
    sampled: list[int]
    """Rows that need logits."""

    @property
    def rows(self) -> int:
        return len(self.positions)

    @property
    def row_pos(self) -> Tensor:
        """int64 [rows]: absolute positions."""
        return torch.frombuffer(self.positions, dtype=torch.int64)

    @property
    def row_table(self) -> Tensor:
        """int32 [rows]: index into `tables`."""
        return torch.frombuffer(self.table_of_row, dtype=torch.int32)

    @property
    def tables(self) -> Tensor:
        """int32 [spans, pages], filled up with page 0."""
        return torch.frombuffer(self.page_ids, dtype=torch.int32).view(self.table_shape)


def lay_out(spans: Sequence[Span], limits: Limits) -> Batch:
    """Raises EngineError when spans contradict each other or the limits."""
    _check(spans, limits)
    width = max((len(span.pages) for span in spans), default=0)
    positions, table_of_row, page_ids = array("q"), array("i"), array("i")
    sampled: list[int] = []
    for index, span in enumerate(spans):
        positions.extend(range(span.start, span.start + span.count))
        table_of_row.extend([index] * span.count)
        page_ids.extend(span.pages)
        page_ids.extend([0] * (width - len(span.pages)))
        if span.sample:
            sampled.extend(range(len(positions) - 1 - len(span.guesses), len(positions)))
    return Batch(positions, table_of_row, page_ids, (len(spans), width), sampled)


def _check(spans: Sequence[Span], limits: Limits) -> None:
    slots: set[int] = set()
    written: set[int] = set()
    for span in spans:
        end = span.start + span.count
        if span.start < 0 or span.count < 1:
            raise EngineError(f"slot {span.slot}: no rows [{span.start}, {end})")
        if len(span.guesses) >= span.count or (span.guesses and not span.sample):
            raise EngineError(
                f"slot {span.slot}: {len(span.guesses)} guesses in {span.count} rows, of which "
                "the one before the guesses is to be sampled"
            )
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
