"""What a rank's KV holds, from one line to the next.

The KV generation rule: a rank's generation is the key of the driver whose steps wrote its KV last;
a load leaves none. Keys are fresh in every line. So where all ranks of a new line name the key that
this process had as their driver, nobody has written since, and each has what that driver knew to be
full. If one names anything else, nothing is used again.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from paceline.engine.prefix import PageKey


class KvMemory:
    """Of one loaded shard."""

    def __init__(self) -> None:
        self.generation = ""
        self._full_pages: Mapping[int, PageKey] = {}

    def written_by(self, driver: str) -> None:
        """A step of the line with this driver is about to write."""
        if driver != self.generation:
            self.generation, self._full_pages = driver, {}

    def left_by(self, driver: str, full_pages: Mapping[int, PageKey]) -> None:
        """The line of which this process was the driver is over: what all its ranks had then."""
        if driver == self.generation:
            self._full_pages = full_pages

    def take(self, generations: Set[str]) -> Mapping[int, PageKey]:
        """What all ranks of a new line still have. It stays known until that line writes: one that
        breaks before its first step has taken nothing away."""
        return self._full_pages if generations == {self.generation} else {}
