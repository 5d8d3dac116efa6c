"""How many files and sockets this process may have open."""

from __future__ import annotations

import resource
from contextlib import suppress

WANTED = 65_536


def allow_descriptors() -> int:
    """Raises the soft limit, which shells set low, as far as the hard one lets it; gives it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED if soft == resource.RLIM_INFINITY else soft
