"""The real controller among nodes that crash and a network that cannot be trusted: at every moment
the invariants hold, and once faults stop everything wanted is ready and nothing else is left."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.campaign import run, told
from tests.simulation.faults import FAULTS

SCHEDULES = 500
AT_ONCE = 50
PROOF = range(1_000_000, 1_100_000)
PROOF_S = 6 * 3600


@pytest.mark.parametrize("first", range(0, SCHEDULES, AT_ONCE))
def test_all_invariants_hold_under_any_faults(first: int) -> None:
    totals = run(range(first, first + AT_ONCE))
    assert totals.schedules == AT_ONCE
    assert not totals.failures, told(totals)


@pytest.mark.proof
@pytest.mark.timeout(PROOF_S)
def test_all_invariants_hold_in_a_hundred_thousand_schedules(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with capsys.disabled():
        totals = run(PROOF, os.cpu_count() or 1, lambda said: print(f"\r{said}", end=""))
        print(f"\n{totals}")
    assert totals.schedules == len(PROOF)
    assert not totals.failures, told(totals)
    assert set(totals.injected) == set(FAULTS), "every kind of fault has struck"


@pytest.mark.parametrize("seed", ["3", "17", "29"])
def test_a_seed_is_replayed_exactly_in_any_process(seed: str) -> None:
    """Not even the order of sets, which Python draws anew for each process, may show."""
    replays = set()
    for hash_seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": hash_seed}
        argv = [sys.executable, "-m", "tests.simulation", "--seed", seed]
        replays.add(subprocess.run(argv, env=env, capture_output=True, check=False).stdout)
    assert len(replays) == 1
    assert b"FAULT" in replays.pop()
