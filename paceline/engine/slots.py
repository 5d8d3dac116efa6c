"""Who runs: slots of one epoch, the sequences on them, and their KV pages.

A full page may be shared from the step after the one that fills it, though that one may not even
have begun: a line is FIFO, so on every rank whoever reads comes after whoever wrote. Where a step
is lost or fails, its epoch is over, and what outlives that are pages filled by steps that had come
back: every rank has those, and none that was in flight wrote there. Within a step nobody reads what
another writes there, so that kernels may take its spans in any order.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from paceline.engine.pages import PagePool, pages_for
from paceline.engine.prefix import PageKey
from paceline.engine.sequence import Sequence
from paceline.types.errors import EngineError
from paceline.types.model import PAGE_TOKENS
from paceline.types.step import Span


class Retired(msgspec.Struct, frozen=True):
    """A slot that ended while `last_step`, which names it, is in flight."""

    slot: int
    last_step: int


class SlotTable:
    """Slots are never used twice. The pages of a slot that ended are free again once the last
    step that names it has left the line."""

    def __init__(self, pages: int, max_running: int) -> None:
        self.pool = PagePool(pages)
        self.running: dict[int, Sequence] = {}
        """By slot, in the order in which they were admitted."""
        self.prefix_queries = 0
        """Ids of all that were admitted."""
        self.prefix_hits = 0
        """Those of them that were not fed, because their pages were there."""
        self._max_running = max_running
        self._next_slot = 0
        self._freed: list[int] = []
        self._retired: list[Retired] = []
        self._oldest_step = 0
        self._filling: dict[PageKey, int] = {}
        """Pages that the step being made fills, by key."""
        self._in_flight: dict[int, int] = {}
        """Pages that were filled by a step in flight, and which one."""

    @property
    def retiring(self) -> bool:
        """Pages will come back with a step that is in flight."""
        return bool(self._retired)

    @property
    def has_freed(self) -> bool:
        return bool(self._freed)

    def can_admit(self, sequence: Sequence) -> bool:
        """Whether pages are free for all its ids, and one more for each that runs already: who
        comes must not take at once what the others are about to need."""
        if len(self.running) >= self._max_running:
            return False
        known = self.pool.known(sequence.keys_ahead())
        own = pages_for(len(sequence.ids)) - len(known)
        wanted = own + self.pool.cost(known) + len(self.running)
        return self.pool.can_promise(wanted)

    def admit(self, sequence: Sequence) -> int:
        slot, self._next_slot = self._next_slot, self._next_slot + 1
        sequence.take_slot(slot)
        self.running[slot] = sequence
        self.prefix_queries += len(sequence.ids)
        known = self.pool.known(sequence.keys_ahead())
        self.pool.promise(slot, pages_for(len(sequence.ids)) - len(known))
        self._share(slot, known)
        return slot

    def share_known(self, slot: int) -> None:
        """Shares the pages ahead that are known by now, instead of filling its own."""
        known = self.pool.known(self.running[slot].keys_ahead())
        self.pool.forgo(slot, len(known))
        self._share(slot, known)

    def may_feed(self, slot: int) -> bool:
        """Not while this very step fills the slot's next page for another: from the next step on
        it is there to share."""
        if not self._filling:
            return True
        return not any(key in self._filling for key in self.running[slot].keys_ahead()[:1])

    def grow(self, slot: int) -> bool:
        """Whether the slot has room for one more row, after taking a free page if it needs one."""
        if self.spare_rows(slot) > 0:
            return True
        if not self.pool.can_promise(1):
            return False
        self.pool.promise(slot, 1)
        return True

    def spare_rows(self, slot: int) -> int:
        """Rows for which the slot has room without another page."""
        return self.pool.room(slot) * PAGE_TOKENS - self.running[slot].fed

    def feed(self, slot: int, count: int, step: int, guesses: tuple[int, ...] = ()) -> Span:
        """Puts the slot's next `count` rows into a step, and guesses behind them."""
        sequence = self.running[slot]
        end = sequence.fed + count + len(guesses)
        self.pool.draw(slot, end)
        span = sequence.feed(slot, count, self.pool.table(slot, end), step, guesses)
        self._filling |= {key: page for page, key in sequence.newly_filled(span.pages)}
        return span

    def step_made(self, step: int) -> None:
        """The step being made is on its way: what it fills may be shared from now on."""
        for key, page in self._filling.items():
            self.pool.remember(page, key)
            self._in_flight[page] = step
        self._filling = {}

    def retire(self, slot: int) -> Sequence:
        """Ends a slot now, and its pages once no step in flight names it."""
        sequence = self.running.pop(slot)
        sequence.leave_slot()
        if not sequence.new:
            self._freed.append(slot)
        self._retired.append(Retired(slot, sequence.last_step))
        self._release()
        return sequence

    def take_freed(self) -> tuple[int, ...]:
        """Slots that ended and that no rank was told of yet."""
        freed, self._freed = tuple(self._freed), []
        return freed

    def step_returned(self, step: int) -> None:
        """Steps leave the line in order: all up to this one are through."""
        self._oldest_step = step + 1
        self._in_flight = {page: by for page, by in self._in_flight.items() if by > step}
        self._release()

    # --- from one epoch to the next --------------------------------------------------------------

    @property
    def full_pages(self) -> dict[int, PageKey]:
        """Pages that every rank has filled, with their keys."""
        contents = self.pool.contents
        return {page: key for page, key in contents.items() if page not in self._in_flight}

    def recall(self, full_pages: Mapping[int, PageKey]) -> None:
        """Begins with what another table over the same pages left. Before anyone is admitted."""
        self.pool.recall(full_pages)

    def check_integrity(self) -> None:
        """Raises EngineError if the pool is damaged, or a page is kept by a slot that is gone."""
        self.pool.check_integrity()
        alive = self.running.keys() | {retired.slot for retired in self._retired}
        if self.pool.owners != alive:
            raise EngineError(
                f"slots {sorted(self.pool.owners)} hold KV pages and {sorted(alive)} are alive"
            )

    def _share(self, slot: int, pages: list[int]) -> None:
        self.pool.share(slot, pages)
        self.running[slot].skip(len(pages))
        self.prefix_hits += len(pages) * PAGE_TOKENS

    def _release(self) -> None:
        for retired in [r for r in self._retired if r.last_step < self._oldest_step]:
            self._retired.remove(retired)
            self.pool.release(retired.slot)
