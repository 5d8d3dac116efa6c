from __future__ import annotations

from typing import Any

import msgspec
import pytest

from paceline.gateway.recovery import (
    Candidate,
    Carriage,
    Leave,
    Pause,
    choose,
    patience_s,
    reason_to_leave,
)
from paceline.types.ids import Epoch, InstanceId
from tests.gateway.test_routes import route

WELL = Carriage(
    closing=False,
    broken=False,
    silence_s=0.1,
    epoch=Epoch(1, 5),
    newest_epoch=Epoch(1, 5),
    disallowed=False,
    idle_s=1.0,
    patience_s=30.0,
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"newest_epoch": None}, None),
        ({"newest_epoch": Epoch(1, 4)}, None),
        ({"newest_epoch": Epoch(1, 6)}, Leave.EPOCH),
        ({"newest_epoch": Epoch(2, 1)}, Leave.EPOCH),
        ({"closing": True}, Leave.CLOSING),
        ({"broken": True}, Leave.LINK),
        ({"silence_s": 3.1}, Leave.LINK),
        ({"disallowed": True}, Leave.TRIAL),
        ({"disallowed": True, "broken": True}, Leave.LINK),
        ({"idle_s": 30.1}, Leave.STALLED),
        ({"closing": True, "broken": True, "idle_s": 99.0}, Leave.CLOSING),
    ],
)
def test_when_a_stream_leaves(change: dict[str, Any], reason: Leave | None) -> None:
    assert reason_to_leave(msgspec.structs.replace(WELL, **change), max_silence_s=3.0) is reason


def test_patience_grows_with_what_is_to_read_and_with_each_stall() -> None:
    def patience(to_read: int, stalls: int) -> float:
        return patience_s(base_s=30, per_token_s=0.05, to_read=to_read, stalls=stalls)

    assert patience(0, 0) == 30
    assert patience(1000, 0) == 80
    assert patience(1000, 2) == 320


def test_the_phases_of_a_pause_are_the_pause() -> None:
    phases = Pause(silent_since=10.0, noticed_at=10.5).phases(resubmitted_at=12.0, gained_at=12.25)
    assert phases == {"detect": 0.5, "replace": 1.5, "replay": 0.25}


def candidate(instance: str, running: int = 0, waiting: int = 0, carried: int = 0) -> Candidate:
    there = msgspec.structs.replace(route(instance), running=running, waiting=waiting)
    return Candidate(route=there, carried=carried)


@pytest.mark.parametrize(
    ("candidates", "avoid", "chosen"),
    [
        ([], None, None),
        ([candidate("a", running=2), candidate("b", running=1)], None, "b"),
        ([candidate("a", waiting=2), candidate("b", running=1)], None, "b"),
        ([candidate("a", carried=9), candidate("b", running=3)], None, "b"),
        ([candidate("a"), candidate("b")], None, "a"),
        ([candidate("a"), candidate("b", running=9)], "a", "b"),
        ([candidate("a")], "a", "a"),
    ],
)
def test_where_a_stream_goes(
    candidates: list[Candidate], avoid: str | None, chosen: str | None
) -> None:
    found = choose(candidates, InstanceId(avoid) if avoid else None)
    assert (found.instance if found else None) == chosen
