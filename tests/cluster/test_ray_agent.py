"""How an agent asks Ray for runners."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from paceline.cluster.node.settings import node_parser, node_settings
from paceline.cluster.ray.agent import Actors
from paceline.cluster.ray.session import Session
from paceline.types.ids import RunnerId


class BusyRay:
    """One to which too much was said already."""

    def make(self, *_: Any) -> Callable[[], None]:
        raise BlockingIOError


def test_who_could_not_be_asked_for_is_not_waited_for(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        words = ["--home", str(tmp_path), "--runtime", runtime, "--cluster-id", "c", "--node", "n"]
        given = node_parser("agent", "").parse_args(
            [*words, "--memory", "1", "--host", "127.0.0.1"]
        )
        actors = Actors(node_settings(given), cast(Session, BusyRay()), "program")
        for number in range(3):
            with pytest.raises(BlockingIOError):
                actors.start(RunnerId(f"r-{number}"))
        assert not actors._awaited
        actors.close()
