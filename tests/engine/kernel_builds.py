"""Building the C library for tests, and what its kernels are given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
ISAS = ["amx", "avx512vnni", "avx512", "avxvnni", "avx2", "portable"]


def build(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(directory / "lib")]
    return subprocess.run(
        [*command, "--build-temp", str(directory / "temp")],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def built_in(directory: Path) -> Path:
    return directory / "lib" / "paceline" / "engine" / "kernels"


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
