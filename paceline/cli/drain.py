"""`paceline drain`: empty a node, and say how far that is."""

from __future__ import annotations

import time

from paceline.cli import show
from paceline.cli.api import Api
from paceline.types.errors import DeadlineExceeded

WAIT_S = 300.0
LOOK_S = 0.3


def drain(api: Api, node: str, *, wait: bool) -> show.Row:
    """The node as it is then. Raises NotFound; DeadlineExceeded if it is not empty in time: it
    stays asked to be, and what keeps it is said."""
    found: show.Row = api.post(f"/api/nodes/{node}/drain", {})
    deadline, told = time.monotonic() + WAIT_S, ""
    while wait and found["runners"]:
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"{node} is not empty after {WAIT_S:.0f} s; {told}")
        said = _what_keeps(api, node)
        if said and said != told:
            told = said
            show.err.print(said, markup=False, style="dim")
        time.sleep(LOOK_S)
        found = next(each for each in api.get("/api/nodes") if each["name"] == node)
    return found


def undrain(api: Api, node: str) -> show.Row:
    found: show.Row = api.delete(f"/api/nodes/{node}/drain")
    return found


def _what_keeps(api: Api, node: str) -> str:
    instances = api.get("/api/instances")
    there = [one for one in instances if any(r["node"] == node for r in one["runners"])]
    return "; ".join(f"{one['id']} {reason}" for one in there for reason in one["reasons"])
