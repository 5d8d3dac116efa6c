"""Who may become a node: a request meets the facts, and is refused with both sides named."""

from __future__ import annotations

import re
from collections import OrderedDict

from paceline.controller.facts import Facts
from paceline.types.errors import InvalidRequest, Settling, Unavailable
from paceline.types.ids import NodeName
from paceline.types.join import JoinRequest, Versions, differences
from paceline.types.timing import Timing

WELCOME_S = 60.0
"""How long a name is kept for whom was welcomed: until it beats, or is given up."""
MAX_WELCOMED = 4096

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Welcomed:
    """The names that were given away and may not have been heard since."""

    def __init__(self) -> None:
        self._given: OrderedDict[NodeName, tuple[str, float]] = OrderedDict()
        """To which origin, and when; oldest first."""

    def give(self, request: JoinRequest, now: float) -> None:
        self._given[request.node] = request.origin, now
        self._given.move_to_end(request.node)
        if len(self._given) > MAX_WELCOMED:
            self._given.popitem(last=False)

    def check(self, request: JoinRequest, facts: Facts, now: float) -> None:
        """Raises Unavailable where the name waits for another."""
        origin, given_at = self._given.get(request.node, ("", -float("inf")))
        seen = facts.nodes.get(request.node)
        has_come = seen is not None and seen.heard_at > given_at
        if now - given_at < WELCOME_S and origin != request.origin and not has_come:
            raise Unavailable(
                f"the name {request.node} was given to {origin or 'another'} "
                f"{now - given_at:.1f} s ago: join under another, or wait for {WELCOME_S:g} s"
            )


def check(request: JoinRequest, ours: Versions, facts: Facts, now: float, timing: Timing) -> None:
    """Raises InvalidRequest for what will not change by waiting, Unavailable for what may,
    Settling where that takes no longer than the living need to show themselves."""
    if not _NAME.fullmatch(request.node):
        raise InvalidRequest(
            f"{request.node!r} is no name for a node; use up to 63 letters, digits, '.', '_' or "
            "'-', beginning with a letter or digit"
        )
    if found := differences(ours, request.versions):
        raise InvalidRequest(
            f"{request.node} cannot join: {'; '.join(found)}. Install the head's versions there"
        )
    if now - facts.started_at < timing.settle_s:
        raise Settling("the controller has just started and waits for its nodes; try again")
    _check_free(request.node, facts, now, timing)


def _check_free(node: NodeName, facts: Facts, now: float, timing: Timing) -> None:
    seen = facts.nodes.get(node)
    if seen is None:
        return
    silence_s = facts.silence_s(seen.heard_at, now)
    if silence_s <= timing.lost_s:
        raise Unavailable(
            f"a node named {node} lives, on {seen.facts.host}, and was heard {silence_s:.1f} s "
            "ago: end it there first, or join under another name"
        )
