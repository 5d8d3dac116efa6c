"""Draining a node that is away, or goes away meanwhile."""

from typing import Any, cast

import pytest

from paceline.cli import drain as draining
from paceline.cli.api import Api
from paceline.types.errors import DeadlineExceeded, Unavailable


class Away:
    """Answers as a gateway does while the controller does not see the node."""

    def __init__(self, seen: dict[str, Any] | None) -> None:
        self._seen = seen

    def post(self, path: str, body: object) -> dict[str, Any] | None:
        return self._seen

    def get(self, path: str) -> list[dict[str, Any]]:
        return []


def test_a_node_that_is_away_is_said_to_be() -> None:
    with pytest.raises(Unavailable, match="node-1 is away"):
        draining.drain(cast(Api, Away(None)), "node-1", wait=True)


def test_one_that_goes_away_meanwhile_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "WAIT_S", 0.2)
    monkeypatch.setattr(draining, "LOOK_S", 0.05)
    with pytest.raises(DeadlineExceeded, match="node-1 is not empty"):
        draining.drain(cast(Api, Away({"name": "node-1", "runners": ["r-1"]})), "node-1", wait=True)
