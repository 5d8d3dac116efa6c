"""`paceline doctor`: what this machine has and lacks, each with what to do about it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from paceline.checkpoint import Store
from paceline.planner import human_bytes
from paceline.process.cpus import usable_cpus
from paceline.process.home import Home
from paceline.process.memory import machine_memory
from paceline.process.versions import versions
from paceline.types.errors import PacelineError

ENGINE_S = 60.0
LOW_DISK_BYTES = 2**30


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    check: str
    ok: bool
    finding: str


def examine(home: Home) -> list[Finding]:
    """Every check, also after one has failed."""
    checks: dict[str, Callable[[Home], str]] = {
        "python": lambda _: f"{platform.python_version()} at {sys.executable}",
        "machine": _machine,
        "home": _home,
        "sockets": _sockets,
        "engine": _engine,
        "models": _models,
        "ray": lambda _: versions().ray or "not installed, and needed for many machines only",
        "cluster": _cluster,
    }
    return [_finding(name, check, home) for name, check in checks.items()]


def _finding(name: str, check: Callable[[Home], str], home: Home) -> Finding:
    try:
        return Finding(check=name, ok=True, finding=check(home))
    except (PacelineError, OSError, subprocess.SubprocessError, ValueError) as error:
        return Finding(check=name, ok=False, finding=str(error))


def _machine(_: Home) -> str:
    memory = machine_memory()
    return (
        f"{platform.machine()}, {usable_cpus()} cpus, {human_bytes(memory.available)} of "
        f"{human_bytes(memory.total)} memory free"
    )


def _home(home: Home) -> str:
    home.create()
    probe = home.path / f".doctor-{os.getpid()}"
    probe.write_bytes(b"x")
    probe.unlink()
    free = shutil.disk_usage(home.path).free
    if free < LOW_DISK_BYTES:
        raise PacelineError(f"{home.path} has only {human_bytes(free)} free; make room for models")
    return f"{home.path} can be written, {human_bytes(free)} free"


def _sockets(home: Home) -> str:
    directory = home.runtime()
    path = directory / f"doctor-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as probe:
        probe.bind(str(path))
    Path(path).unlink()
    return f"local sockets work in {directory}"


def _engine(_: Home) -> str:
    """In a process of its own: the commands never load torch."""
    done = subprocess.run(
        [sys.executable, "-m", "paceline.engine"],
        capture_output=True,
        text=True,
        timeout=ENGINE_S,
        check=False,
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise PacelineError(f"the engine cannot be loaded: {last[0]}")
    report = json.loads(done.stdout)
    kernels = report["kernels"] or "no C kernels (no compiler at install): slower, same answers"
    return f"torch {report['torch']}, {kernels}"


def _models(home: Home) -> str:
    return ", ".join(Store(home.path).names()) or "none yet; `paceline pull` fetches one"


def _cluster(home: Home) -> str:
    info = home.read_run()
    return "none is running in this home" if info is None else f"{info.url} (process {info.pid})"
