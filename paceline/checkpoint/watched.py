"""Run a download as a child process and watch the directory it fills.

A child can be given deadlines that hold whatever the library inside it does: its own retries,
a resolver that hangs, a server that stops in the middle.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from paceline.checkpoint.progress import OnProgress, Progress, silent

_POLL_S = 0.1
_KILL_S = 5.0
_ERROR_BYTES = 4000


class Failed(Exception):
    """The child did not do its work; the message is one sentence for people."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """`stall_s`: without a new byte; `total_s`: altogether."""

    stall_s: float
    total_s: float


def run_watched(
    program: str,
    *arguments: str,
    limits: Limits,
    watch: Path,
    env: Mapping[str, str],
    report: Progress,
    on_progress: OnProgress = silent,
) -> bytes:
    """Run a Python module or file to its end and return its stdout. Raises Failed.

    It dies with this process. Progress is `report` with the bytes that lie under `watch`.
    """
    child_file = str(Path(__file__).with_name("child.py"))
    command = [sys.executable, "-P", child_file, str(os.getpid()), program, *arguments]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **env},
            )
        except OSError as error:
            raise Failed(f"cannot start {sys.executable}: {error.strerror}") from error
        try:
            _watch(child, limits, watch, report, on_progress)
        finally:
            _end(child)
        if child.returncode != 0:
            raise Failed(_last_words(err) or f"ended with status {child.returncode}")
        out.seek(0)
        return out.read()


def _watch(
    child: subprocess.Popen[bytes],
    limits: Limits,
    watch: Path,
    report: Progress,
    on_progress: OnProgress,
) -> None:
    started = grown = time.monotonic()
    seen = -1
    while child.poll() is None:
        size, now = bytes_under(watch), time.monotonic()
        if size != seen:
            seen, grown = size, now
            on_progress(Progress(report.stage, size, report.total_bytes, report.note))
        if now - grown > limits.stall_s:
            raise Failed(f"nothing arrived for {limits.stall_s:.0f} s")
        if now - started > limits.total_s:
            raise Failed(f"not finished after {limits.total_s:.0f} s")
        time.sleep(_POLL_S)


def bytes_under(directory: Path) -> int:
    """Size of all files below a directory that others may be changing."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += Path(parent, name).stat().st_size
    return total


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(_KILL_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _last_words(err: IO[bytes]) -> str:
    """The last line that a failed child wrote that says something."""
    size = err.seek(0, os.SEEK_END)
    err.seek(max(0, size - _ERROR_BYTES))
    lines = [line.strip() for line in err.read().decode(errors="replace").splitlines()]
    spoken = [line for line in lines if line and not line.lower().startswith(("[notice]", "hint:"))]
    errors = [line for line in spoken if line.lower().startswith("error")]
    return (errors or spoken or [""])[-1]
