"""Who runs: slots of one epoch, the sequences on them, and their KV pages."""

from __future__ import annotations

import msgspec

from paceline.engine.pages import PagePool, pages_for
from paceline.engine.sequence import Sequence
from paceline.types.errors import EngineError
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
        self._max_running = max_running
        self._next_slot = 0
        self._freed: list[int] = []
        self._retired: list[Retired] = []
        self._oldest_step = 0

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
        wanted = pages_for(len(sequence.ids)) + len(self.running)
        return len(self.running) < self._max_running and self.pool.can_allocate(wanted)

    def admit(self, sequence: Sequence) -> int:
        slot, self._next_slot = self._next_slot, self._next_slot + 1
        self.pool.allocate(slot, pages_for(len(sequence.ids)))
        sequence.take_slot(slot)
        self.running[slot] = sequence
        return slot

    def grow(self, slot: int) -> bool:
        """Whether the slot has room for one more row, after taking a free page if it needs one."""
        if self.pool.held(slot) >= pages_for(self.running[slot].fed + 1):
            return True
        if not self.pool.can_allocate(1):
            return False
        self.pool.allocate(slot, 1)
        return True

    def feed(self, slot: int, count: int, step: int) -> Span:
        """Puts the slot's next `count` rows into a step."""
        sequence = self.running[slot]
        return sequence.feed(slot, count, self.pool.table(slot, sequence.fed + count), step)

    def retire(self, slot: int) -> Sequence:
        """Ends a slot now, and its pages once no step in flight names it."""
        sequence = self.running.pop(slot)
        sequence.leave_slot()
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
        self._release()

    def check_integrity(self) -> None:
        """Raises EngineError if a page is lost, doubly owned, or kept by a slot that is gone."""
        self.pool.check_integrity()
        alive = self.running.keys() | {retired.slot for retired in self._retired}
        if self.pool.owners != alive:
            raise EngineError(
                f"slots {sorted(self.pool.owners)} hold KV pages and {sorted(alive)} are alive"
            )

    def _release(self) -> None:
        for retired in [r for r in self._retired if r.last_step < self._oldest_step]:
            self._retired.remove(retired)
            self.pool.release(retired.slot)
