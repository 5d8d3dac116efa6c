"""The C kernel of paged attention: right against float64, and a row's bits its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from paceline.engine.kernels import Kernels
from paceline.types.errors import EngineError
from tests.engine.kernel_builds import random

HEADS = [(9, 3, 64), (12, 12, 64), (4, 1, 256), (32, 8, 128), (32, 32, 96), (10, 2, 8)]
VIEWS = [(0, 0.0), (70, 0.0), (0, 5.0), (1, 0.0)]
"""(window, softcap)"""
CELLS = [torch.float32, torch.float16]


@dataclass(frozen=True)
class Sequences:
    """Sequences of `lengths` tokens, their pages strewn over a cache that is NaN elsewhere."""

    q: Tensor
    k: Tensor
    v: Tensor
    row_pos: Tensor
    row_table: Tensor
    tables: Tensor
    scale: float

    def rows(self, which: Tensor | slice) -> Sequences:
        return replace(
            self,
            q=self.q[which].contiguous(),
            row_pos=self.row_pos[which].contiguous(),
            row_table=self.row_table[which].contiguous(),
        )

    def attend(self, kernels: Kernels, window: int = 0, softcap: float = 0.0) -> Tensor:
        call = (self.q, self.k, self.v, self.row_pos, self.row_table, self.tables, self.scale)
        return kernels.attention(*call, window, softcap)


def sequences(
    lengths: list[int],
    heads: tuple[int, int, int],
    placement: int = 0,
    cells: torch.dtype = torch.float32,
) -> Sequences:
    """Every token of every sequence as a row; `placement` seeds where the pages stand."""
    n_heads, kv_heads, head_dim = heads
    spans = [-(-length // 64) for length in lengths]
    generator = torch.Generator().manual_seed(placement)
    ids = torch.randperm(sum(spans) + 2, generator=generator)[: sum(spans)].split(spans)
    k = torch.full((sum(spans) + 2, kv_heads, head_dim, 64), torch.nan, dtype=cells)
    v = torch.full((sum(spans) + 2, kv_heads, 64, head_dim), torch.nan, dtype=cells)
    tables = torch.full((len(lengths), max(spans) + 1), -1, dtype=torch.int32)
    for i, (length, pages) in enumerate(zip(lengths, ids, strict=True)):
        tables[i, : len(pages)] = pages
        for cache, seed in ((k.transpose(2, 3), 1), (v, 2)):
            held = random(kv_heads, length, head_dim, seed=10 * i + seed)
            for n, page in enumerate(pages):
                part = held[:, 64 * n : 64 * n + 64]
                cache[page, :, : part.shape[1]] = part
    return Sequences(
        q=random(sum(lengths), n_heads, head_dim),
        k=k,
        v=v,
        row_pos=torch.cat([torch.arange(length) for length in lengths]),
        row_table=torch.repeat_interleave(
            torch.arange(len(lengths), dtype=torch.int32), torch.tensor(lengths)
        ),
        tables=tables,
        scale=head_dim**-0.5,
    )


def exact_attention(s: Sequences, window: int, softcap: float) -> Tensor:
    group = s.q.shape[1] // s.k.shape[1]
    out = []
    for q, position, table in zip(s.q.double(), s.row_pos.tolist(), s.row_table, strict=True):
        pages = s.tables[table, : position // 64 + 1].long()
        first = max(0, position - window + 1) if window else 0
        k, v = (
            t[pages].transpose(0, 1).flatten(1, 2)[:, first : position + 1].double()
            for t in (s.k.transpose(2, 3), s.v)
        )
        scores = torch.einsum("hd,hkd->hk", q, k.repeat_interleave(group, 0)) * s.scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        weights = scores.softmax(-1)
        out.append(torch.einsum("hk,hkd->hd", weights, v.repeat_interleave(group, 0)).flatten())
    return torch.stack(out)


@pytest.mark.parametrize(("window", "softcap"), VIEWS)
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("cells", CELLS, ids=str)
def test_attention_is_right(
    kernels: Kernels,
    cells: torch.dtype,
    heads: tuple[int, int, int],
    window: int,
    softcap: float,
) -> None:
    s = sequences([150, 3], heads, cells=cells).rows(
        torch.cat([torch.arange(0, 150, 7), torch.arange(145, 153)])
    )
    exact = exact_attention(s, window, softcap)
    torch.testing.assert_close(
        s.attend(kernels, window, softcap).double(), exact, rtol=1e-5, atol=3e-6
    )


@pytest.mark.parametrize(("window", "softcap"), VIEWS)
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("cells", CELLS, ids=str)
def test_attention_gives_a_row_the_same_bits_in_any_company(
    kernels: Kernels,
    portable: Kernels,
    cells: torch.dtype,
    heads: tuple[int, int, int],
    window: int,
    softcap: float,
) -> None:
    lengths = [135, 64, 5]
    s = sequences(lengths, heads, cells=cells)
    rows = len(s.q)

    def attend(s: Sequences) -> Tensor:
        return s.attend(kernels, window, softcap)

    whole = attend(s)
    assert whole.isfinite().all()
    one_by_one = torch.cat([attend(s.rows(slice(i, i + 1))) for i in range(rows)])
    chunks = torch.cat([attend(s.rows(slice(i, i + 33))) for i in range(0, rows, 33)])
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(3))
    elsewhere = replace(sequences(lengths, heads, placement=1, cells=cells), q=s.q)
    some = s.rows(slice(100, 137))
    assert torch.equal(one_by_one, whole)
    assert torch.equal(chunks, whole)
    assert torch.equal(attend(s.rows(order)), whole[order])
    assert torch.equal(attend(elsewhere), whole)
    assert torch.equal(some.attend(portable, window, softcap), whole[100:137])
    kernels.set_threads(2)
    assert torch.equal(attend(s), whole)


@pytest.mark.parametrize("window", [0, 300])
def test_a_long_sequence_shared_out_by_pages_has_the_same_bits(
    kernels: Kernels, window: int
) -> None:
    s = sequences([700], (9, 3, 64)).rows(slice(697, 700))
    alone = s.attend(kernels, window)
    torch.testing.assert_close(
        alone.double(), exact_attention(s, window, 0.0), rtol=1e-5, atol=3e-6
    )
    for threads in (2, 3):
        kernels.set_threads(threads)
        assert torch.equal(s.attend(kernels, window), alone)
        for i in range(3):
            row = slice(i, i + 1)
            assert torch.equal(s.rows(row).attend(kernels, window), alone[row])


def test_a_page_between_two_views_is_not_touched(kernels: Kernels) -> None:
    s = sequences([400], (4, 2, 16)).rows(torch.tensor([3, 390]))
    expected = s.attend(kernels, window=20)
    s.tables[0, 2:5] = 2**31 - 1
    for threads in (1, 2):
        kernels.set_threads(threads)
        assert torch.equal(s.attend(kernels, window=20), expected)


def test_attention_does_not_hide_a_nan(kernels: Kernels) -> None:
    s = sequences([20], (2, 1, 16))
    s.k[s.tables[0, 0], 0, 3, 10] = torch.nan
    sees = s.row_pos >= 10
    assert s.attend(kernels)[sees].isnan().all()
    assert s.attend(kernels)[~sees].isfinite().all()


def test_attention_of_large_scores(kernels: Kernels) -> None:
    s = replace(sequences([100], (2, 1, 16)), scale=40.0)
    torch.testing.assert_close(
        s.attend(kernels).double(), exact_attention(s, 0, 0.0), rtol=1e-3, atol=1e-3
    )


def test_attention_of_no_rows(kernels: Kernels) -> None:
    s = sequences([20], (2, 1, 16)).rows(slice(0, 0))
    assert s.attend(kernels).shape == (0, 32)


ATTENTION_FAULTS: dict[str, Callable[[Sequences], Sequences]] = {
    "position": lambda s: replace(s, row_pos=s.row_pos - 1),
    "beyond its page table": lambda s: replace(s, row_pos=s.row_pos + 192),
    "row_table": lambda s: replace(s, row_table=s.row_table + 1),
    "row_table names": lambda s: replace(s, row_table=s.row_table - 1),
    "page that the cache": lambda s: replace(s, tables=s.tables + len(s.k)),
    "page that the cache does": lambda s: replace(s, tables=-s.tables - 1),
    "given row_pos": lambda s: replace(s, row_pos=s.row_pos.int()),
    "given tables": lambda s: replace(s, tables=s.tables.long()),
    "given v": lambda s: replace(s, k=s.k.half()),
    "given k": lambda s: replace(s, k=s.k.double()),
    "one entry for each row": lambda s: replace(s, row_pos=s.row_pos[1:].clone()),
    "v is": lambda s: replace(s, v=s.v[1:].clone()),
    "k is": lambda s: replace(s, k=s.k[..., :32].contiguous(), v=s.v[:, :, :32].contiguous()),
    "does not handle": lambda s: replace(s, q=s.q[:, :3].contiguous()),
}


@pytest.mark.parametrize("message", ATTENTION_FAULTS)
def test_attention_refuses_what_would_read_out_of_bounds(kernels: Kernels, message: str) -> None:
    s = sequences([70], (4, 2, 16))
    with pytest.raises(EngineError, match=message):
        ATTENTION_FAULTS[message](s).attend(kernels)
    assert s.attend(kernels).isfinite().all()


def test_attention_refuses_a_negative_window(kernels: Kernels) -> None:
    with pytest.raises(EngineError, match="window"):
        sequences([3], (2, 1, 16)).attend(kernels, window=-1)


def test_supported_head_shapes(kernels: Kernels) -> None:
    assert all(kernels.supports(*heads) for heads in HEADS)
    for heads in [(9, 2, 64), (4, 4, 12), (4, 4, 264), (130, 2, 64), (0, 0, 64)]:
        assert not kernels.supports(*heads)
