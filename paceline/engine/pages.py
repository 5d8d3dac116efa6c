"""The pool of KV pages: which page belongs to whom. The driver's alone; ranks only follow.

A full page whose ids are known may stand in several tables, and is remembered after the last of
them is gone, until its place is wanted. Nobody writes a full page again, so whoever shares one
only reads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from paceline.engine.prefix import PageKey
from paceline.types.errors import EngineError
from paceline.types.model import PAGE_TOKENS


def pages_for(tokens: int) -> int:
    """Pages that hold this many tokens."""
    return -(-tokens // PAGE_TOKENS)


class PagePool:
    """`total` pages, ids 0 … total - 1. Each is in tables of owners, or kept for its contents, or
    blank. Kept and blank pages are free; some of the free ones are promised to owners."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._blank = list(range(total - 1, -1, -1))
        self._kept: dict[int, None] = {}
        """Least recently used first."""
        self._tables: dict[int, list[int]] = {}
        self._promised: dict[int, int] = {}
        self._holders: Counter[int] = Counter()
        """By page: how many tables it is in."""
        self._known: dict[PageKey, int] = {}
        self._keys: dict[int, PageKey] = {}

    @property
    def free(self) -> int:
        """Pages that nobody holds and nobody was promised."""
        return len(self._blank) + len(self._kept) - sum(self._promised.values())

    @property
    def owners(self) -> frozenset[int]:
        return frozenset(self._tables)

    def held(self, owner: int) -> int:
        return len(self._tables.get(owner, ()))

    def room(self, owner: int) -> int:
        """Pages held or promised."""
        return self.held(owner) + self._promised.get(owner, 0)

    def table(self, owner: int, tokens: int) -> tuple[int, ...]:
        """The owner's pages that cover its first `tokens` tokens, in order."""
        count = pages_for(tokens)
        if self.held(owner) < count:
            raise EngineError(f"slot {owner} holds {self.held(owner)} pages and needs {count}")
        return tuple(self._tables.get(owner, ())[:count])

    # --- pages of one's own ----------------------------------------------------------------------

    def can_promise(self, count: int) -> bool:
        return count <= self.free

    def promise(self, owner: int, count: int) -> None:
        """Sees to it that the owner's table can grow by `count`; ask `can_promise` first."""
        if not self.can_promise(count):
            raise EngineError(f"{count} pages are needed and {self.free} are free")
        self._tables.setdefault(owner, [])
        self._promised[owner] = self._promised.get(owner, 0) + count

    def draw(self, owner: int, tokens: int) -> None:
        """Brings the owner's table up to `tokens` tokens, out of what it was promised."""
        for _ in range(pages_for(tokens) - self.held(owner)):
            self.forgo(owner, 1)
            self._hold(owner, self._blank.pop() if self._blank else self._forget_oldest())

    def forgo(self, owner: int, count: int) -> None:
        """Gives back so many of the owner's promises."""
        promised = self._promised.get(owner, 0)
        if promised < count:
            raise EngineError(f"slot {owner} takes {count} pages and was promised {promised}")
        self._promised[owner] = promised - count

    def release(self, owner: int) -> None:
        """Takes all pages of the owner back; an unknown owner has none. The end of a prefix is of
        use only behind its beginning, so it is the first to be forgotten."""
        self._promised.pop(owner, None)
        for page in reversed(self._tables.pop(owner, [])):
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            del self._holders[page]
            if page in self._keys:
                self._kept[page] = None
            else:
                self._blank.append(page)

    # --- pages that are shared -------------------------------------------------------------------

    def remember(self, page: int, key: PageKey) -> None:
        """The page is full, with what the key stands for. The first page of a key is the one."""
        if key not in self._known:
            self._known[key] = page
            self._keys[page] = key

    def known(self, keys: Sequence[PageKey]) -> list[int]:
        """The pages of as many keys as are known without a gap."""
        pages: list[int] = []
        for key in keys:
            page = self._known.get(key)
            if page is None:
                break
            pages.append(page)
        return pages

    def cost(self, pages: Sequence[int]) -> int:
        """How many free pages go when these are shared: those that nobody holds."""
        return sum(page in self._kept for page in pages)

    def share(self, owner: int, pages: Sequence[int]) -> None:
        """Adds known pages to the owner's table. Their `cost` must be free."""
        for page in pages:
            self._kept.pop(page, None)
            self._hold(owner, page)

    # --- from one pool to the next ---------------------------------------------------------------

    @property
    def contents(self) -> dict[int, PageKey]:
        """All pages whose contents are known, those that are to be forgotten first in front."""
        held = [page for table in self._tables.values() for page in reversed(table)]
        return {page: self._keys[page] for page in (*self._kept, *held) if page in self._keys}

    def recall(self, contents: Mapping[int, PageKey]) -> None:
        """Keeps these pages of an older pool over the same memory. Raises EngineError unless this
        pool is blank: a page would be in two places."""
        if len(self._blank) != self.total:
            raise EngineError("only a blank pool can take over the pages of another")
        self._blank = [page for page in self._blank if page not in contents]
        for page, key in contents.items():
            self._kept[page] = None
            self.remember(page, key)

    # --- the books -------------------------------------------------------------------------------

    def _hold(self, owner: int, page: int) -> None:
        self._tables.setdefault(owner, []).append(page)
        self._holders[page] += 1

    def _forget_oldest(self) -> int:
        page = next(iter(self._kept))
        del self._kept[page]
        del self._known[self._keys.pop(page)]
        return page

    def check_integrity(self) -> None:
        """Raises EngineError if a page is lost or in two places, if one stands in two tables and
        is not known to be full, or if more is promised than there is."""
        tables = Counter(page for table in self._tables.values() for page in table)
        places = Counter([*self._blank, *self._kept, *tables])
        if places != Counter(range(self.total)):
            lost = sorted(set(range(self.total)) - set(places))
            double = sorted(page for page, count in places.items() if count > 1)
            raise EngineError(f"KV pages are damaged: {lost} lost, {double} in two places")
        unknown = sorted(p for p, count in tables.items() if count > 1 and p not in self._keys)
        if unknown or tables != self._holders:
            raise EngineError(f"KV pages are damaged: {unknown} shared, but not known to be full")
        if self._known != {key: page for page, key in self._keys.items()}:
            raise EngineError("KV pages are damaged: keys and pages do not name each other")
        if self.free < 0 or not self._kept.keys() <= self._keys.keys():
            raise EngineError(f"KV pages are damaged: {-self.free} more are promised than free")
