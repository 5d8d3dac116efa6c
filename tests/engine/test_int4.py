"""int4 weights: codes, their layout, and a model of them with the same bits everywhere.

`test_quantised` multiplies them.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from paceline.engine import int4, int8
from paceline.engine.eager import EagerMatrix
from paceline.engine.encode import encode
from paceline.engine.kernels import Kernels
from paceline.engine.matrices import PackedMatrix
from paceline.engine.quantised import QuantisedMatrix, quantise
from paceline.engine.stage import Stage
from paceline.planner.memory import DTYPES
from paceline.types.errors import EngineError
from paceline.types.model import Shard
from tests.engine.conftest import OPS
from tests.engine.kernel_builds import random
from tests.engine.line import Line, alone, together
from tests.engine.tiny import LAYERS, VOCAB

WHOLE = Shard(start=0, stop=LAYERS, layers=LAYERS)
EXTREMES = [
    torch.zeros(3, 64),
    torch.full((3, 64), 127.0),
    torch.full((3, 64), -127.0),
    random(9, 64).sign() * 127,
    random(9, 64) * 1e-3,
    (random(9, 64) * 5 + 120).clamp(-127, 127),
    torch.where(random(9, 64) > 2, 127.0, random(9, 64)),
]


def in_steps(columns: int, depth: int, seed: int = 0, size: float = 40.0) -> Tensor:
    return (random(columns, depth, seed=seed) * size).clamp(-127, 127)


def same(one: int4.Codes, other: int4.Codes) -> bool:
    pairs = ((one.codes, other.codes), (one.steps, other.steps), (one.lows, other.lows))
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_source_of_16_even_levels_is_kept_as_exactly_as_in_int8() -> None:
    """As GGUF's Q4_1 is."""
    draw = torch.Generator().manual_seed(1)
    codes = torch.randint(16, (200, 4, 32), generator=draw)
    codes[..., 0], codes[..., 1] = 0, 15
    steps = torch.rand(200, 4, 1, generator=draw) * 10 + 4
    source = (steps * (codes - 7.5) + torch.randn(200, 4, 1, generator=draw) * 3).flatten(1)
    error = (int4.decode(encode(source)).float() - source).abs()
    assert error.mean() < 0.35  # a quarter is what rounding to int8 takes
    assert error.max() < 1.6


def test_what_has_no_levels_is_off_by_a_fraction_of_a_step() -> None:
    source = in_steps(300, 128)
    codes = encode(source)
    steps = codes.steps.float().repeat_interleave(32, 1) / int4.PARTS
    error = (int4.decode(codes).float() - source).abs() / steps
    assert error.mean() < 0.28  # a quarter were the ends of the range never left out
    assert error.quantile(0.99) < 1.0


@pytest.mark.parametrize("source", EXTREMES)
def test_no_level_leaves_int8(kernels: Kernels, source: Tensor) -> None:
    codes = encode(source)
    levels = codes.lows.int() + codes.steps.int() * 15 // int4.PARTS
    assert levels.max() <= 127
    assert codes.lows.min() >= -127
    assert (int4.decode(codes).float() - source).abs().max() <= 16
    assert same(kernels.encode(source), codes)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    columns=st.integers(1, 40),
    groups=st.integers(1, 3),
    seed=st.integers(0, 1000),
    size=st.sampled_from([0.05, 1.0, 8.0, 40.0, 500.0]),
)
def test_kernels_find_the_same_codes(
    kernels: Kernels, columns: int, groups: int, seed: int, size: float
) -> None:
    source = in_steps(columns, groups * int4.GROUP, seed, size)
    for threads in (1, 3):
        kernels.set_threads(threads)
        assert same(kernels.encode(source), encode(source))


def test_all_codes_between_the_lowest_and_the_highest_weight_are_multiplied(
    kernels: Kernels,
) -> None:
    codes = torch.arange(16, dtype=torch.uint8).repeat(20, 8)
    steps = torch.tensor([1, 16, 117, 255], dtype=torch.uint8).repeat(20, 1)
    lows = torch.tensor([-127, 112, 17, -112], dtype=torch.int8).repeat(20, 1)
    extreme = int4.Codes(codes, steps, lows)
    levels = int4.decode(extreme)
    assert (levels.min(), levels.max()) == (-127, 127)
    held = QuantisedMatrix(int4.pack(extreme), torch.ones(20), 128, 4)
    as_int8 = QuantisedMatrix(int8.pack(levels), torch.ones(20), 128, 8)
    x = torch.cat((torch.ones(1, 128), -torch.ones(1, 128), random(17, 128)))
    expected = EagerMatrix(as_int8).linear(x, None)
    assert torch.equal(EagerMatrix(held).linear(x, None), expected)
    assert torch.equal(kernels.quantised_linear(x, held), expected)
    assert torch.equal(kernels.quantised_linear(x[:3], held), expected[:3])


def test_what_lies_outside_is_cut_off(kernels: Kernels) -> None:
    source = random(5, 64) * torch.tensor([1e3, 1e5, 1e6, 1e7, 1e30])[:, None]
    codes = encode(source)
    assert same(codes, encode(source.clamp(-127, 127)))
    assert same(codes, kernels.encode(source))


@given(columns=st.integers(1, 70), groups=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_packing_loses_nothing(columns: int, groups: int) -> None:
    codes = encode(in_steps(columns, groups * int4.GROUP))
    packed = int4.pack(codes)
    assert packed.shape == int4.packed_shape(columns, groups * int4.GROUP)
    assert same(int4.unpack(packed, columns), codes)
    whole = int4.decode(int4.unpack(packed, len(packed) * int8.STRIP))
    assert not whole[columns:].any(), "columns that only fill a strip up are of zeros"


def test_the_planner_asks_for_the_same_depths() -> None:
    assert DTYPES["int4"].depth_multiple == int4.GROUP


def test_four_and_a_half_bits_a_weight() -> None:
    assert int4.pack(encode(in_steps(64, 576))).nbytes * 8 == 64 * 576 * 4.5


def test_a_table_is_int8(kernels: Kernels) -> None:
    table = PackedMatrix(QuantisedMatrix(*quantise(random(16, 64), 4), 64, 4), kernels)
    with pytest.raises(EngineError, match="a table is of int8 weights, not of int4"):
        table.rows(torch.tensor([3]))


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("case", ["llama_int4", "gpt2_int4"])
def test_splits_chunks_and_company_change_no_bit(case, ops, tiny, use_threads) -> None:
    path, _ = tiny(case)
    draw = torch.Generator().manual_seed(3)
    prompts = [torch.randint(VOCAB, (n,), generator=draw).tolist() for n in (90, 3, 130)]
    line = Line(path, [LAYERS], ops, dtype="int4")
    truth = [alone(line, ids, chunk=1) for ids in prompts]
    use_threads(2)
    for seed, sizes in enumerate(([LAYERS], [3, 4])):
        found = together(Line(path, sizes, ops, dtype="int4"), prompts, seed)
        found.append(alone(Line(path, sizes, ops, dtype="int4"), prompts[2], chunk=130))
        for expected, logits in zip([*truth, truth[2]], found, strict=True):
            assert logits
            assert all(torch.equal(row, expected[i]) for i, row in logits.items())


def test_layers_take_little_more_than_half_of_int8s_memory_and_have_an_id_of_their_own(
    tiny,
) -> None:
    path, _ = tiny("llama_int4")
    middle = Shard(start=2, stop=5, layers=LAYERS)
    int4s, int8s = (Stage.load(path, middle, kv_pages=1, dtype=d) for d in ("int4", "int8"))
    assert 0.5 < int4s.weight_bytes / int8s.weight_bytes < 0.7
    assert int4s.kv_bytes == int8s.kv_bytes
    assert "/int4-g32/int8-g64/kv-float16/" in int4s.numerics_id
