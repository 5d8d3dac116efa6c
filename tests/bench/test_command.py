"""`paceline bench` on a cluster of its own, with a model that is quick to load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.small import SMALL, write_small


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_small(tmp_path / "home" / "models")
    return tmp_path / "home"


def paceline(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "paceline.cli.main", "--home", str(home), *words],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env=os.environ | {"COLUMNS": "200", "TERM": "dumb"},
    )


@pytest.mark.real
def test_two_ranks_are_measured_and_nothing_stays(home: Path) -> None:
    done = paceline(
        home, "bench", SMALL, "--world-size", "2", "--concurrency", "1,4", "--tokens", "12",
        "--rounds", "1", "--dtype", "int8", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["model"], found["dtype"], found["world_size"]) == (SMALL, "int8", 2)
    assert [seat["rank"] for seat in found["placement"]] == [0, 1]
    assert [(one["concurrency"], one["tokens"]) for one in found["levels"]] == [(1, 12), (4, 48)]
    assert all(one["errors"] == 0 and one["tokens_per_s"] > 0 for one in found["levels"])
    assert found["memory_bytes"] > 0
    assert not (home / "run.json").exists()


@pytest.mark.parametrize("concurrency", ["many", "0", ""])
def test_a_concurrency_that_is_none(home: Path, concurrency: str) -> None:
    told = paceline(home, "bench", SMALL, "--concurrency", concurrency)
    assert told.returncode == 1
    assert "concurrency" in told.stderr
