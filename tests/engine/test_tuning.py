"""Who multiplies how many rows."""

from __future__ import annotations

import pytest

from paceline.engine.kernels import Kernels
from paceline.engine.kernels.tuning import CANDIDATES, NEVER, many_rows, tune


@pytest.mark.parametrize(
    ("took", "least"),
    [
        ({1: (1, 2), 2: (2, 2), 4: (4, 2)}, 2),
        ({1: (1, 1), 2: (2, 1), 4: (4, 1)}, 1),
        ({1: (1, 2), 2: (2, 3), 4: (4, 5)}, NEVER),
        ({1: (2, 1), 2: (2, 3), 4: (4, 3)}, 4),
    ],
)
def test_the_least_rows_from_which_on_it_is_not_slower(took, least):
    assert many_rows(took) == least


def test_what_is_measured_is_set(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both are as fast, the kernel for many rows is taken from the least rows on."""
    chosen: list[int] = []
    monkeypatch.setattr(kernels, "set_many_rows", chosen.append)
    tune(kernels, clock=lambda: 0.0)
    assert chosen[-1:] == ([CANDIDATES[0]] if kernels.has_many else [])
