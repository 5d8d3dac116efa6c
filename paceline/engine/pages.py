"""The pool of KV pages: which page belongs to whom. The driver's alone; ranks only follow."""

from __future__ import annotations

from paceline.types.errors import EngineError
from paceline.types.model import PAGE_TOKENS


def pages_for(tokens: int) -> int:
    """Pages that hold this many tokens."""
    return -(-tokens // PAGE_TOKENS)


class PagePool:
    """`total` pages, ids 0 … total - 1; each is free or in the table of exactly one owner."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = list(range(total - 1, -1, -1))
        self._tables: dict[int, list[int]] = {}

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def owners(self) -> frozenset[int]:
        return frozenset(self._tables)

    def held(self, owner: int) -> int:
        return len(self._tables.get(owner, ()))

    def table(self, owner: int, tokens: int) -> tuple[int, ...]:
        """The owner's pages that cover its first `tokens` tokens, in order."""
        count = pages_for(tokens)
        if self.held(owner) < count:
            raise EngineError(f"slot {owner} holds {self.held(owner)} pages and needs {count}")
        return tuple(self._tables[owner][:count])

    def can_allocate(self, count: int) -> bool:
        return count <= self.free

    def allocate(self, owner: int, count: int) -> None:
        """Adds `count` pages to the end of the owner's table; ask `can_allocate` first."""
        if not self.can_allocate(count):
            raise EngineError(f"{count} pages are needed and {self.free} are free")
        table = self._tables.setdefault(owner, [])
        table.extend(self._free.pop() for _ in range(count))

    def release(self, owner: int) -> None:
        """Takes all pages of the owner back; an unknown owner has none."""
        self._free.extend(reversed(self._tables.pop(owner, [])))

    def check_integrity(self) -> None:
        """Raises EngineError if a page is lost or is in two places."""
        places = [*self._free, *(page for table in self._tables.values() for page in table)]
        if sorted(places) != list(range(self.total)):
            lost = sorted(set(range(self.total)) - set(places))
            double = sorted({page for page in places if places.count(page) > 1})
            raise EngineError(f"KV pages are damaged: {lost} lost, {double} in two places")
