"""How fast this process brings one row through weights: what placement calls a node's speed."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from paceline.engine.ops import choose_ops

WIDTH = 2048
MATRICES = 4
"""4 x 16 MiB: more than a cache holds, as a model's layers are."""

ROUNDS = 3
"""The quickest counts: the others met other work on the machine."""


def seconds_per_byte(clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that a byte of float32 weights costs a step of one row. Takes about 0.1 s and
    64 MiB, which are given back."""
    ops = choose_ops("auto", heads=1, kv_heads=1, head_dim=64)
    matrices = [torch.full((WIDTH, WIDTH), 0.01) for _ in range(MATRICES)]
    row = torch.full((1, WIDTH), 0.01)
    took_s = []
    for _ in range(ROUNDS):
        began = clock()
        for matrix in matrices:
            ops.linear(row, matrix, None)
        took_s.append(clock() - began)
    return min(took_s) / sum(matrix.nbytes for matrix in matrices)
