"""How long work tells its caller how far it is, so that a person can be shown a bar."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Progress(msgspec.Struct, frozen=True):
    """One report of a pull or an import.

    `done_bytes` restarts with each stage; `total_bytes` is None where nobody knows it.
    """

    stage: str
    """One of: peers, lock, hub, wheel, verify, unpack, copy, convert, hash, skip."""
    done_bytes: int
    total_bytes: int | None
    note: str


OnProgress = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """The listener of a caller that does not want to know."""
