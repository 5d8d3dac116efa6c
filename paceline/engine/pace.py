"""How fast this process brings one row through weights: what placement calls a node's speed."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from paceline.engine.eager import EagerMatrix
from paceline.engine.kernels import load
from paceline.engine.matrices import PackedMatrix
from paceline.engine.quantised import QuantisedMatrix, packed_shape

DEPTH, COLUMNS = 2048, 8192
MATRICES = 4
"""4 x 16 MiB: more than a cache holds, as a model's layers are."""

ROUNDS = 3
"""The quickest counts: the others met other work on the machine."""


def seconds_per_byte(clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that a byte of int8 weights costs a step of one row. A byte of int4 costs more, which
    placement leaves out. Takes about 0.1 s and 64 MiB, which are given back."""
    kernels = load()
    shape = packed_shape(COLUMNS, DEPTH, 8)
    weights = [
        QuantisedMatrix(torch.ones(shape, dtype=torch.uint8), torch.ones(COLUMNS), DEPTH, 8)
        for _ in range(MATRICES)
    ]
    matrices = [PackedMatrix(w, kernels) if kernels else EagerMatrix(w) for w in weights]
    row = torch.full((1, DEPTH), 0.01)
    took_s = []
    for _ in range(ROUNDS):
        began = clock()
        for matrix in matrices:
            matrix.linear(row, None)
        took_s.append(clock() - began)
    return min(took_s) / sum(matrix.nbytes for matrix in matrices)
