"""Processors that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

from paceline.process.cgroup import MEMBERSHIP, ROOT, levels, number


def usable_cpus(membership: Path = MEMBERSHIP, root: Path = ROOT) -> int:
    """At least 1: the processors that we may run on, less where a control group gives less time."""
    quotas = [_quota(level) for level in levels("cpu", membership, root)]
    return max(1, min(len(os.sched_getaffinity(0)), *(math.ceil(q) for q in quotas if q), 10**6))


def _quota(level: Path) -> float | None:
    """Processors' worth of time per period; None without a limit."""
    try:
        limit, period = (level / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        quota, each = number(level / "cpu.cfs_quota_us"), number(level / "cpu.cfs_period_us")
        return quota / each if quota and each and quota > 0 else None
