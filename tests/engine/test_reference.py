"""The operations by themselves: right against float64, and a row's bits its own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from paceline.engine import kernels
from paceline.engine.elementwise import activate, exp, soft_capped
from paceline.engine.ops import Ops
from paceline.engine.reference import ReferenceOps

HEADS = [(9, 3, 64), (4, 4, 16), (8, 1, 32), (2, 1, 256)]


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(11)


def _ops(ops: str) -> Ops:
    built = kernels.load()
    return built if ops == "c" and built else ReferenceOps()


@pytest.mark.parametrize("columns", [1, 97, 960])
@pytest.mark.parametrize("inner", [48, 576, 1536, 4864])
def test_linear_is_right_and_rows_do_not_depend_on_company(draw, ops, use_threads, inner, columns):
    x = torch.randn(70, inner, generator=draw)
    weight = torch.randn(columns, inner, generator=draw)
    bias = torch.randn(columns, generator=draw)
    linear = _ops(ops).linear
    together = linear(x, weight, bias)
    exact = F.linear(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(together.double(), exact, rtol=1e-4, atol=1e-3)
    shuffled = torch.randperm(70, generator=draw)
    for threads in (1, 2):
        use_threads(threads)
        for rows in (1, 2, 15, 16, 17, 32, 33, 70):
            assert torch.equal(linear(x[:rows], weight, bias), together[:rows]), (threads, rows)
        assert torch.equal(linear(x[shuffled], weight, bias), together[shuffled])
    assert torch.equal(linear(x, weight, None), linear(x, weight, torch.zeros(columns)))


def _naive(q, k, v, positions, pages, scale, window, softcap):
    """One sequence, float64: scores of every key, one softmax."""
    group = q.shape[1] // k.shape[1]
    keys, values = (
        cache[pages].transpose(1, 2).flatten(0, 1).double().repeat_interleave(group, dim=1)
        for cache in (k, v)
    )
    scores = torch.einsum("rhd,khd->rhk", q.double(), keys) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    index = torch.arange(len(keys))
    seen = index <= positions[:, None]
    if window:
        seen &= index > positions[:, None] - window
    weights = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    return torch.einsum("rhk,khd->rhd", weights, values).flatten(1)


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize(("window", "softcap"), [(0, 0.0), (70, 0.0), (3, 5.0), (1, 0.0)])
@pytest.mark.parametrize("cells", [torch.float32, torch.float16], ids=str)
def test_attention_is_right_and_rows_do_not_depend_on_company(
    draw, ops, use_threads, cells, heads, window, softcap
):
    count, kv_heads, head_dim = heads
    k, v = torch.randn(2, 8, kv_heads, 64, head_dim, generator=draw).to(cells)
    by_element = k.transpose(2, 3).contiguous()
    tables = torch.tensor([[5, 2, 7], [1, 0, 0], [4, 6, 0]], dtype=torch.int32)
    runs = [torch.arange(118, 158), torch.tensor([9]), torch.arange(60, 79)]
    row_pos = torch.cat(runs)
    row_table = torch.repeat_interleave(
        torch.arange(3, dtype=torch.int32), torch.tensor([len(run) for run in runs])
    )
    q = torch.randn(len(row_pos), count, head_dim, generator=draw)
    scale = head_dim**-0.5

    def attend(rows: torch.Tensor) -> torch.Tensor:
        arguments = (q[rows].contiguous(), by_element, v, row_pos[rows], row_table[rows], tables)
        return _ops(ops).attention(*arguments, scale, window, softcap)

    together = attend(torch.arange(len(q)))
    for i in range(3):
        mine = row_table == i
        exact = _naive(q[mine], k, v, row_pos[mine], tables[i].long(), scale, window, softcap)
        torch.testing.assert_close(together[mine].double(), exact, rtol=1e-4, atol=1e-5)
    for threads in (1, 2):
        use_threads(threads)
        for rows in ([0], [3, 4, 5], [40], [41, 50, 59], list(range(5, 45)), [20, 40, 59]):
            index = torch.tensor(rows)
            assert torch.equal(attend(index), together[index]), (threads, rows)


@pytest.mark.parametrize("apply", ["silu", "gelu", "gelu_tanh", "exp", "soft_capped"])
def test_an_element_does_not_depend_on_its_place(draw, use_threads, apply):
    run = {"exp": exp, "soft_capped": lambda x: soft_capped(x, 3.0)}.get(
        apply, lambda x: activate(apply, x)
    )
    x = torch.randn(100_003, generator=draw)
    together = run(x.clone())
    for threads in (1, 2, 3, 7):
        use_threads(threads)
        assert torch.equal(run(x.clone()), together)
        for start, stop in ((0, 1), (5, 6), (3, 40), (31, 95), (50_000, 100_003)):
            assert torch.equal(run(x[start:stop].clone()), together[start:stop])


def test_activations_are_torchs(draw):
    x = torch.randn(1000, generator=draw)
    torch.testing.assert_close(activate("silu", x.clone()), F.silu(x))
    torch.testing.assert_close(activate("gelu", x.clone()), F.gelu(x))
    tanh = F.gelu(x, approximate="tanh")
    torch.testing.assert_close(activate("gelu_tanh", x.clone()), tanh)
    torch.testing.assert_close(soft_capped(x.clone(), 0.5), 0.5 * torch.tanh(x / 0.5))
