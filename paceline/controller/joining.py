"""Who may become a node. Pure: a request meets the facts, and is refused with both sides named."""

from __future__ import annotations

import re

from paceline.controller.facts import Facts
from paceline.types.errors import InvalidRequest, Unavailable
from paceline.types.ids import NodeName
from paceline.types.join import JoinRequest, Versions, differences
from paceline.types.timing import Timing

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def check(request: JoinRequest, ours: Versions, facts: Facts, now: float, timing: Timing) -> None:
    """Raises InvalidRequest for what will not change by waiting, Unavailable for what may."""
    if not _NAME.fullmatch(request.node):
        raise InvalidRequest(
            f"{request.node!r} is no name for a node; use up to 63 letters, digits, '.', '_' or "
            "'-', beginning with a letter or digit"
        )
    if found := differences(ours, request.versions):
        raise InvalidRequest(
            f"{request.node} cannot join: {'; '.join(found)}. Install the head's versions there"
        )
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
