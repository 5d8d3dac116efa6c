"""From how many rows on a product has a kernel of its own, measured: the bits are the same."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from paceline.engine.kernels.calls import Kernels
from paceline.engine.quantised import QuantisedMatrix, packed_shape

CANDIDATES = (6, 8, 12, 16)
"""Rows. Fewer wait for memory, whoever multiplies; and a kernel for many works on 16 at once."""

NEVER = 2**62
_DEPTH, _COLUMNS, _MATRICES = 1024, 8192, 2
"""2 x 8 MiB: as in a model's step, a core's own cache has hardly any of it when its turn comes."""
_ROUNDS = 5
"""The quickest counts: the others met other work on the machine."""


def tune(kernels: Kernels, clock: Callable[[], float] = time.perf_counter) -> None:
    """Sets `kernels` to what is faster here. Takes some 50 ms, so nothing is kept on disk."""
    if not kernels.has_many:
        return
    shape = packed_shape(_COLUMNS, _DEPTH, 8)
    matrices = [
        QuantisedMatrix(torch.ones(shape, dtype=torch.uint8), torch.ones(_COLUMNS), _DEPTH, 8)
        for _ in range(_MATRICES)
    ]

    def seconds(rows: int, many_from: int) -> float:
        kernels.set_many_rows(many_from)
        x = torch.full((rows, _DEPTH), 0.01)
        return min(_timed(lambda: products(x), clock) for _ in range(_ROUNDS))

    def products(x: torch.Tensor) -> None:
        for matrix in matrices:
            kernels.quantised_linear(x, matrix)

    # Most rows first: a processor takes a while to get up to speed.
    took = {rows: (seconds(rows, NEVER), seconds(rows, 1)) for rows in reversed(CANDIDATES)}
    kernels.set_many_rows(many_rows(took))


def many_rows(took: dict[int, tuple[float, float]]) -> int:
    """By rows: seconds of the kernel for few and of that for many. The least rows from which on the
    latter is not slower."""
    best = NEVER
    for rows in sorted(took, reverse=True):
        few, many = took[rows]
        if many > few:
            break
        best = rows
    return best


def _timed(work: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    work()
    return clock() - began
