"""`paceline up` where others can reach it: a key is made, shown once, kept, and asked for."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx

from paceline.process.home import Home
from tests.cli.test_commands import paceline

START_S = 60.0


def started(home: Home) -> subprocess.Popen[str]:
    words = ["--home", str(home.path), "up", "--host", "0.0.0.0", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "paceline.cli.main", *words],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200", "TERM": "dumb", "PACELINE_API_KEY": ""},
    )
    deadline = time.monotonic() + START_S
    while home.read_run() is None:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


def ended(process: subprocess.Popen[str]) -> str:
    """What it said."""
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    return said


def test_a_key_is_made_and_shown_once(tmp_path: Path) -> None:
    home = Home(tmp_path)
    process = started(home)
    try:
        run = home.read_run()
        assert run is not None
        key = home.api_key.read_text().strip()
        assert stat.S_IMODE(home.api_key.stat().st_mode) == 0o600
        assert stat.S_IMODE(home.membership.stat().st_mode) == 0o600
        assert httpx.get(f"{run.url}/health").status_code == 200
        assert httpx.get(f"{run.url}/metrics").status_code == 401
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{run.url}/metrics", headers=headers).status_code == 200
        assert paceline("nodes", home=tmp_path).returncode == 0, "our own commands know the key"
        assert key in ended(process).splitlines()
        process = started(home)
        said = ended(process)
        assert key not in said
        assert str(home.api_key) in said
        assert home.api_key.read_text().strip() == key
    finally:
        process.kill()
        process.wait()
