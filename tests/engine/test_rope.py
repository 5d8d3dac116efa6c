from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from paceline.checkpoint.rope import DefaultRope, FactorsRope, LinearRope, YarnRope
from paceline.engine.rope import RopeTable, rotate

YARN = YarnRope(factor=4.0, original_max_position_embeddings=64)


def test_factors_divide_each_frequency():
    positions = torch.arange(300)
    linear = RopeTable(LinearRope(factor=2.5), 16, 300).rows(positions)
    equal = RopeTable(FactorsRope(factors=(2.5,) * 8), 16, 300).rows(positions)
    assert torch.equal(linear[0], equal[0])
    assert torch.equal(linear[1], equal[1])

    mixed = RopeTable(FactorsRope(factors=(1.0, 2.5) * 4), 16, 300).rows(positions)[0]
    default = RopeTable(DefaultRope(), 16, 300).rows(positions)[0]
    assert torch.equal(mixed[..., ::2], default[..., ::2])
    assert torch.equal(mixed[..., 1::2], linear[0][..., 1::2])


@pytest.mark.parametrize("rope", [DefaultRope(), YARN])
@pytest.mark.parametrize("head_dim", [2, 8, 24, 128])
def test_ranks_with_longer_tables_turn_by_the_same_bits(use_threads, rope, head_dim):
    positions = torch.arange(100)
    short = RopeTable(rope, head_dim, 100)
    use_threads(2)
    long = RopeTable(rope, head_dim, 5000)
    for a, b in zip(short.rows(positions), long.rows(positions), strict=True):
        assert torch.equal(a, b)


FIRST_AND_SECOND = """
import torch
from paceline.checkpoint.rope import DefaultRope
from paceline.engine.rope import RopeTable

first, second = RopeTable(DefaultRope(), 16, 1536), RopeTable(DefaultRope(), 16, 1536)
assert torch.equal(first.cos, second.cos) and torch.equal(first.sin, second.sin)
"""


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_the_first_table_of_a_process_is_like_any_other():
    """One in forty was not while torch shared its elements out among threads."""
    for _ in range(50):
        processes = [subprocess.Popen([sys.executable, "-c", FIRST_AND_SECOND]) for _ in range(4)]
        assert [process.wait(60) for process in processes] == [0] * 4


def test_rotation_keeps_lengths_and_depends_on_distance_only():
    table = RopeTable(DefaultRope(), 32, 200)
    q, k = torch.randn(2, 1, 1, 32, generator=torch.Generator().manual_seed(0))

    def score(query_at: int, key_at: int) -> torch.Tensor:
        a = rotate(q, *table.rows(torch.tensor([query_at])))
        b = rotate(k, *table.rows(torch.tensor([key_at])))
        return (a * b).sum()

    torch.testing.assert_close(score(150, 140), score(17, 7))
    assert (score(150, 140) - score(150, 141)).abs() > 1e-3
    turned = rotate(q, *table.rows(torch.tensor([123])))
    torch.testing.assert_close(turned.norm(), q.norm())
