"""The machine under the numbers: what it is, and how fast it reads and multiplies at most."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from paceline import __version__
from paceline.engine.mapped import mapped
from paceline.process.cpus import usable_cpus

TRIES = 7
FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8")
SQUARE = 2048


def describe() -> dict[str, Any]:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = [line.split(":", 1) for line in text.splitlines() if ":" in line]
    fields = {name.strip(): value.strip() for name, value in lines}
    flags = fields.get("flags", "").split()
    return {
        "cpu": fields.get("model name", platform.processor()),
        "cpus": usable_cpus(),
        "isa": [flag for flag in FLAGS if flag in flags],
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "paceline": __version__,
    }


def read_bytes_per_s(count: int) -> float:
    """Reading a buffer of this size over and over with all processors, as weights are read."""
    half = count // 8
    buffer = torch.frombuffer(mapped(count), dtype=torch.float32, count=2 * half).fill_(1)
    return count / _quickest(lambda: buffer[:half].dot(buffer[half:]))


def int8_products_per_s() -> float:
    """Multiplications of int8 added to int32, as oneDNN does them with large matrices here."""
    a = torch.randint(-127, 128, (SQUARE, SQUARE), dtype=torch.int8)
    return SQUARE**3 / _quickest(lambda: torch._int_mm(a, a))


def _quickest(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(TRIES):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
