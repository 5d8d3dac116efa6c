"""`paceline drain`: empty a node, and say how far that is."""

from __future__ import annotations

import time

from paceline.cli import show
from paceline.cli.api import Api
from paceline.types.errors import DeadlineExceeded, Unavailable

WAIT_S = 300.0
LOOK_S = 0.3


def drain(api: Api, node: str, *, wait: bool) -> show.Row:
    """The node as it is then. Raises NotFound; Unavailable if it is away; DeadlineExceeded if it is
    not empty in time: it stays asked to be, and what keeps it is said."""
    found: show.Row | None = api.post(f"/api/nodes/{node}/drain", {})
    if found is None:
        raise Unavailable(f"{node} is away; it is to be empty as soon as it is back")
    deadline, told = time.monotonic() + WAIT_S, ""
    while wait and found["runners"]:
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"{node} is not empty after {WAIT_S:.0f} s; {told}")
        said = _what_keeps(api, node)
        if said and said != told:
            told = said
            show.err.print(said, markup=False, style="dim")
        time.sleep(LOOK_S)
        found = next((one for one in api.get("/api/nodes") if one["name"] == node), found)
    return found


def undrain(api: Api, node: str) -> show.Row:
    found: show.Row = api.delete(f"/api/nodes/{node}/drain")
    return found


def _what_keeps(api: Api, node: str) -> str:
    instances = api.get("/api/instances")
    there = [one for one in instances if any(r["node"] == node for r in one["runners"])]
    return "; ".join(f"{one['id']} {reason}" for one in there for reason in one["reasons"])
