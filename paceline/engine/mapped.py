"""Memory of this process alone, as the system gives it."""

from __future__ import annotations

import mmap
from contextlib import suppress


def mapped(nbytes: int) -> mmap.mmap:
    """Zeros that take no memory until written; then large pages, where the system has them, for
    what is read whole in every step: a page table walk costs as much as a line of weights. Raises
    OSError or OverflowError."""
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Python may know of them and the kernel not; it is a wish, not a condition.
    with suppress(OSError, AttributeError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
