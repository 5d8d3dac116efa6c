"""`down` and `leave`: whom they end, and what they forget."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paceline.cli import up
from paceline.process.home import Home, RunInfo
from paceline.transport.membership import Membership

HOLD = """
import sys
from paceline.process.home import Home
with Home(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Of a machine that joined."""
    home = Home(tmp_path)
    home.create()
    Membership.from_token(Membership.fresh().token).keep(home)
    return home


@pytest.fixture
def holder(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    """Runs in the home, and has not answered yet: there is no run.json."""
    argv = [sys.executable, "-c", HOLD, str(home.path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_who_is_still_starting_is_ended_too(home: Home, holder: subprocess.Popen[bytes]) -> None:
    assert up.down(home) == holder.pid
    assert holder.wait(10) != 0
    assert home.membership.exists()


def test_who_leaves_while_starting_is_ended_before_the_cluster_is_forgotten(
    home: Home, holder: subprocess.Popen[bytes]
) -> None:
    assert up.leave(home) == holder.pid
    assert holder.wait(10) != 0
    assert not home.membership.exists()


def test_a_stranger_with_the_pid_of_a_cluster_that_died_is_left_alone(
    home: Home,
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        home.write_run(RunInfo(url="http://x", pid=stranger.pid, cluster_id="c", started_at=0.0))
        assert up.down(home) is None
        assert up.leave(home) is None
        stranger.communicate(b"\n")
        assert stranger.returncode == 0
    assert not home.membership.exists()
