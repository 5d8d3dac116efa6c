"""Quantised matrices: their layout, torch's product, and the C kernels with the same bits."""

from __future__ import annotations

import fractions
from typing import get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from paceline.engine import int8
from paceline.engine.eager import EagerMatrix
from paceline.engine.fused import multiply_add
from paceline.engine.int8 import group_of, packed_depth
from paceline.engine.kernels import Kernels
from paceline.engine.matrices import PackedMatrix
from paceline.engine.quantised import Bits, QuantisedMatrix, quantise, quantise_rows, unpack
from paceline.types.errors import EngineError
from tests.engine.kernel_builds import random

SHAPES = [(576, 192), (576, 1536), (1536, 576), (64, 16), (48, 97), (100, 40), (83, 37), (1, 1)]
SHAPES += [(6, 5), (8, 15), (16, 33), (192, 17), (4864, 20)]
"""(K, N)"""

ALL: list[tuple[int, int, Bits]] = [
    *((depth, columns, 8) for depth, columns in SHAPES),
    *((depth, columns, 4) for depth, columns in SHAPES if depth % 64 == 0),
]


def matrix(columns: int, depth: int, bits: Bits = 8, seed: int = 1) -> QuantisedMatrix:
    return QuantisedMatrix(*quantise(random(columns, depth, seed=seed) * 0.05, bits), depth, bits)


def values_of(held: QuantisedMatrix) -> Tensor:
    return unpack(held.packed, held.columns, held.depth, held.bits)


def activations(rows: int, depth: int) -> Tensor:
    """Groups of very different sizes, and some of zeros and of almost nothing."""
    x = random(rows, depth) * torch.exp(3 * random(rows, depth // group_of(depth), seed=9)).repeat(
        1, group_of(depth)
    )
    x[:, : group_of(depth)] = torch.tensor([0.0, 1e-38, 1.0])[torch.arange(rows) % 3, None]
    return x


def test_groups_are_powers_of_two() -> None:
    depths = [576, 1536, 64, 128, 48, 100, 6, 83, 1]
    assert [group_of(depth) for depth in depths] == [64, 64, 64, 64, 16, 4, 2, 1, 1]
    assert [packed_depth(depth) for depth in depths] == [576, 1536, 64, 128, 48, 100, 12, 332, 4]


@pytest.mark.parametrize(("depth", "columns"), SHAPES)
def test_packing_loses_nothing(depth: int, columns: int) -> None:
    values, scales = int8.quantise(random(columns, depth))
    held = QuantisedMatrix(int8.pack(values), scales, depth, 8)
    assert torch.equal(values_of(held), values)
    ids = torch.randint(columns, (7,), generator=torch.Generator().manual_seed(2))
    assert torch.equal(EagerMatrix(held).rows(ids), values[ids] * scales[ids, None])


def test_weights_are_rounded_to_the_nearest_of_255_steps() -> None:
    weights = random(20, 100)
    weights[3] = 0
    values, scales = int8.quantise(weights)
    assert values.abs().amax(1).tolist() == [127] * 3 + [0] + [127] * 16
    error = (values * scales[:, None] - weights).abs()
    assert (error <= scales[:, None] * 0.5001).all()


@pytest.mark.parametrize("bits", get_args(Bits))
@pytest.mark.parametrize("damage", [torch.nan, torch.inf, -torch.inf])
def test_damaged_weights_are_not_hidden(kernels: Kernels, damage: float, bits: Bits) -> None:
    weights = random(3, 64)
    weights[1, 5] = damage
    held = QuantisedMatrix(*quantise(weights, bits), 64, bits)
    assert held.scales.isnan().tolist() == [False, True, False]
    y = kernels.quantised_linear(random(13, 64), held)
    assert y.isnan().all(0).tolist() == y.isnan().any(0).tolist() == [False, True, False]


def test_a_group_is_scaled_by_its_largest() -> None:
    x = torch.zeros(1, 128)
    x[0, 3], x[0, 7], x[0, 70] = -2.0, 1.0, 100.0
    values, scales = quantise_rows(x)
    assert values.shape == (1, 2, 64)
    assert values[0, 0, [3, 7]].tolist() == [-127, 64]  # 63.5 is rounded to even
    assert values[0, 1, 6].item() == 127
    torch.testing.assert_close(scales, torch.tensor([[2 / 127, 100 / 127]]))


def exact_multiply_add(a: float, b: float, c: float) -> float:
    exact = fractions.Fraction(a) * fractions.Fraction(b) + fractions.Fraction(c)
    near = torch.tensor(float(exact)).item()
    candidates = torch.tensor(near)
    beside = [near, *(candidates.nextafter(torch.tensor(d)).item() for d in (1e38, -1e38))]
    errors = [abs(fractions.Fraction(one) - exact) for one in beside]
    best = [one for one, error in zip(beside, errors, strict=True) if error == min(errors)]
    even = [one for one in best if torch.tensor(one).view(torch.int32).item() % 2 == 0]
    return best[0] if len(best) == 1 else even[0]


def test_a_fused_multiply_add_rounds_once() -> None:
    draw = torch.Generator().manual_seed(4)
    a = torch.randint(-(2**20), 2**20, (4000,), generator=draw).float()
    b = torch.randn(4000, generator=draw) * 1e-3
    c = torch.randn(4000, generator=draw) * 100
    # Sums beside the middle between two floats, by less than a double can tell.
    a[:2000] = 1 + 2.0**-15
    b[:2000] = 2.0**-24 * (1 - 2.0**-15)
    c[:2000] = 1 + torch.arange(2000) * 2.0**-23
    b[1000:2000] *= -1
    found = multiply_add(a, b, c)
    expected = [
        exact_multiply_add(*one) for one in zip(*(t.tolist() for t in (a, b, c)), strict=True)
    ]
    assert found.tolist() == expected
    twice = (a.double() * b.double() + c.double()).float()
    assert not torch.equal(twice, found)


@pytest.mark.parametrize(("depth", "columns", "bits"), ALL)
@pytest.mark.parametrize("rows", [1, 5, 33])
def test_torch_multiplies_as_the_definition_says(
    rows: int, depth: int, columns: int, bits: Bits
) -> None:
    x, held = activations(rows, depth), matrix(columns, depth, bits)
    ours = EagerMatrix(held).linear(x, None)
    values, scales = quantise_rows(x)
    wide = (values.double() * scales.double()[..., None]).flatten(1)
    exact = wide @ (values_of(held).double() * held.scales.double()[:, None]).T
    torch.testing.assert_close(
        ours.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max())
    )


@pytest.mark.parametrize(("depth", "columns", "bits"), ALL)
def test_kernels_have_torchs_bits_in_any_company(
    kernels: Kernels, depth: int, columns: int, bits: Bits
) -> None:
    held, bias = matrix(columns, depth, bits), random(columns, seed=3)
    x = activations(30, depth)
    oracle = EagerMatrix(held)
    plain = oracle.linear(x, None)
    assert torch.equal(oracle.linear(x[4:5], None), plain[4:5])
    for threads in (1, 2, 3):
        kernels.set_threads(threads)
        for rows in (*range(1, 17), 24, 30):
            assert torch.equal(kernels.quantised_linear(x[:rows], held), plain[:rows])
        order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
        assert torch.equal(kernels.quantised_linear(x[order], held), plain[order])
    assert torch.equal(kernels.quantised_linear(x, held, bias), oracle.linear(x, bias))


@pytest.mark.parametrize("bits", get_args(Bits))
def test_many_rows_over_a_vocabulary(kernels: Kernels, bits: Bits) -> None:
    held, x = matrix(3000, 576, bits), activations(300, 576)
    expected = EagerMatrix(held).linear(x, None)
    for threads in (1, 2):
        kernels.set_threads(threads)
        assert torch.equal(kernels.quantised_linear(x, held), expected)


def test_the_largest_values_do_not_saturate(kernels: Kernels) -> None:
    values = torch.full((40, 128), 127, dtype=torch.int8)
    values[::2] = -127
    held = QuantisedMatrix(int8.pack(values), torch.ones(40), 128, 8)
    x = torch.ones(14, 128)
    x[3::2] = -1
    exact = 128 * 127.0 * torch.where(torch.arange(40) % 2 == 0, -1.0, 1.0)
    ours = kernels.quantised_linear(x, held)
    torch.testing.assert_close(ours, x[:, :1] * exact)
    assert torch.equal(ours, EagerMatrix(held).linear(x, None))


def test_a_matrix_of_other_bits_or_no_depth_is_refused(kernels: Kernels) -> None:
    held = matrix(40, 64)
    for depth, bits in ((64, 2), (0, 8)):
        wrong = QuantisedMatrix(held.packed, held.scales, depth, bits)
        with pytest.raises(EngineError, match=f"no kernel has int{bits} weights {depth} deep"):
            kernels.quantised_linear(torch.empty(2, depth), wrong)


def test_values_in_the_middle_between_two_steps_are_rounded_alike(kernels: Kernels) -> None:
    largest = random(400, 1).abs() + 0.5
    x = torch.cat((largest, (torch.arange(63) + 0.5) * largest / 127), 1)
    held = QuantisedMatrix(*quantise(torch.eye(64), 8), 64, 8)
    assert torch.equal(kernels.quantised_linear(x, held), EagerMatrix(held).linear(x, None))


@pytest.mark.parametrize("bits", get_args(Bits))
@pytest.mark.parametrize("damage", [torch.nan, torch.inf, -torch.inf])
def test_damage_comes_out_of_its_row(kernels: Kernels, damage: float, bits: Bits) -> None:
    held, x = matrix(40, 192, bits), random(14, 192)
    x[5, 100] = damage
    for ours in (kernels.quantised_linear(x, held), EagerMatrix(held).linear(x, None)):
        assert ours[5].isnan().all()
        assert ours[[4, 6]].isfinite().all()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.integers(1, 30), columns=st.integers(1, 70), depth=st.integers(1, 200))
def test_any_shape(kernels: Kernels, rows: int, columns: int, depth: int) -> None:
    held, x = matrix(columns, depth), activations(rows, depth)
    assert torch.equal(kernels.quantised_linear(x, held), EagerMatrix(held).linear(x, None))


def test_no_rows(kernels: Kernels) -> None:
    assert kernels.quantised_linear(torch.empty(0, 64), matrix(3, 64)).shape == (0, 3)


def test_matrices_that_do_not_fit(kernels: Kernels) -> None:
    held, x = matrix(40, 64), random(2, 64)
    wrong = [
        lambda: kernels.quantised_linear(x[:, :32].contiguous(), held),
        lambda: kernels.quantised_linear(x.half(), held),
        lambda: kernels.quantised_linear(x, held, random(39)),
        lambda: kernels.quantised_linear(
            x, QuantisedMatrix(held.packed[:2], held.scales, held.depth, 8)
        ),
        lambda: kernels.quantised_linear(x, QuantisedMatrix(held.packed, held.scales, 128, 8)),
        lambda: kernels.quantised_linear(x, QuantisedMatrix(held.packed, held.scales, 64, 4)),
        lambda: kernels.quantised_linear(x, QuantisedMatrix(*quantise(random(40, 128), 4), 96, 4)),
    ]
    for call in wrong:
        with pytest.raises(EngineError, match="a kernel was given"):
            call()


@pytest.mark.parametrize("depth", [6, 33, 64, 576])
def test_a_table_row_is_exact(kernels: Kernels, depth: int) -> None:
    kernels.set_threads(2)
    held = matrix(40, depth)
    ids = torch.arange(-40, 40).abs() % 40
    found = kernels.table(held, ids)
    assert torch.equal(found, values_of(held)[ids].float() * held.scales[ids, None])
    assert kernels.table(held, ids[:0]).shape == (0, depth)
    for outside in (-1, 40):
        with pytest.raises(EngineError, match="an id is not one of the table's"):
            kernels.table(held, torch.tensor([0, outside]))


def test_a_table_serves_lookup_and_head(kernels: Kernels) -> None:
    table = PackedMatrix(matrix(40, 64), kernels)
    ids = torch.tensor([3, 39, 3])
    rows = table.rows(ids)
    assert rows.shape == (3, 64)
    assert torch.equal(table.linear(rows, None)[0], table.linear(rows, None)[2])
    assert table.linear(rows, None).argmax(1).tolist() == ids.tolist()
