"""Memory of a process and of the machine, in bytes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import psutil

from paceline.process.cgroup import MEMBERSHIP, ROOT, field, levels, number

KIB = 1024


class MachineMemory(msgspec.Struct, frozen=True):
    """What this machine, or the control group that we are confined to, has in all and to spare."""

    total: int
    available: int


def anonymous_bytes(pid: int) -> int | None:
    """Resident anonymous memory of a process: its own, not its mapped files. None when gone."""
    if (kib := field(Path(f"/proc/{pid}/status"), "RssAnon")) is not None:
        return kib * KIB
    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    return int(info.rss - getattr(info, "shared", 0))


def machine_memory(membership: Path = MEMBERSHIP, root: Path = ROOT) -> MachineMemory:
    """The tightest of the machine's own numbers and every control group's around us."""
    machine = psutil.virtual_memory()
    total, available = int(machine.total), int(machine.available)
    for level in levels("memory", membership, root):
        limit = _first(level, "memory.max", "memory.limit_in_bytes")
        used = _first(level, "memory.current", "memory.usage_in_bytes")
        if limit is None or used is None:
            continue
        # Cache that the kernel gives back before it kills.
        cache = field(level / "memory.stat", "inactive_file") or 0
        total = min(total, limit)
        available = min(available, max(0, limit - used + cache))
    return MachineMemory(total, available)


def oom_kills(membership: Path = MEMBERSHIP, root: Path = ROOT) -> int | None:
    """How many processes the out-of-memory killer has ended so far in our control group, else on
    the machine; None if unknown. Only its growth means anything."""
    places = [
        level / name
        for level in levels("memory", membership, root)
        for name in ("memory.events", "memory.oom_control")
    ]
    places.append(Path("/proc/vmstat"))
    return next((n for path in places if (n := field(path, "oom_kill")) is not None), None)


def _first(level: Path, *names: str) -> int | None:
    return next((n for name in names if (n := number(level / name)) is not None), None)
