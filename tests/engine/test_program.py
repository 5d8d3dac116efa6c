"""Layers in C against the same layers in torch."""

from __future__ import annotations

import pytest
import torch

from paceline.engine import kernels as built_kernels
from paceline.engine import program
from paceline.engine.batch import Limits, lay_out
from paceline.engine.kernels import Kernels
from paceline.engine.stage import Stage
from paceline.types.errors import EngineError
from paceline.types.model import Shard
from paceline.types.step import Span
from tests.engine.tiny import LAYERS, VOCAB

CASES = ["llama", "llama_biases", "mistral_window", "qwen2_window", "qwen3", "qwen3_biases", "gpt2"]
CASES += ["gpt2_gelu", "rope_yarn", "llama_groups", "gpt2_groups", "llama_int4", "gpt2_int4"]
SPANS = [Span(0, 0, 70, (3, 1), False), Span(1, 0, 9, (0,), True)]
KV_PAGES = 30
ROWS = sum(span.count for span in SPANS)


def _stages(
    path, kernels: Kernels, monkeypatch: pytest.MonkeyPatch, shard: Shard
) -> tuple[Stage, Stage]:
    monkeypatch.setattr(built_kernels, "load", lambda: kernels)
    dtype = "int4" if "int4" in path.name else "int8"
    return tuple(
        Stage.load(path, shard, kv_pages=KV_PAGES, ops=ops, dtype=dtype)
        for ops in ("c", "reference")
    )


def _width(case: str) -> int:
    return 64 if "int4" in case else 48


def _near(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Sums in another order turn some activation by a step of 1/127 of its group; hardly any."""
    size = float(expected.abs().max())
    error = (found - expected).abs()
    assert error.max() <= 0.02 * size
    assert error.mean() <= 5e-4 * size


@pytest.mark.parametrize("case", CASES)
def test_a_layer_is_torchs_layer(kernels, case, tiny, monkeypatch):
    path = tiny(case).path
    for index in (0, 4):
        shard = Shard(start=index, stop=index + 1, layers=LAYERS)
        ours, oracle = _stages(path, kernels, monkeypatch, shard)
        draw = torch.Generator().manual_seed(index)
        x = torch.randn(ROWS, _width(case), generator=draw)
        if index == 0:
            x = torch.randint(VOCAB, (ROWS,), generator=draw)
        before = x.clone()
        _near(ours.forward(SPANS, x), oracle.forward(SPANS, x))
        assert torch.equal(x, before)
        later = [Span(0, 70, 1, (3, 1), False), Span(1, 9, 20, (0,), True)]
        _near(ours.forward(later, before[:21]), oracle.forward(later, before[:21]))
        _near(ours.kv.keys[0].float(), oracle.kv.keys[0].float())
        _near(ours.kv.values[0].float(), oracle.kv.values[0].float())


@pytest.mark.parametrize("case", ["llama_tied", "gpt2", "qwen3"])
def test_the_head_is_torchs_head(kernels, case, tiny, monkeypatch):
    shard = Shard(start=LAYERS - 1, stop=LAYERS, layers=LAYERS)
    ours, oracle = _stages(tiny(case).path, kernels, monkeypatch, shard)
    x = torch.randn(KV_PAGES, 48, generator=torch.Generator().manual_seed(1))
    spans = [Span(i, 0, 1, (i,), True) for i in range(KV_PAGES)]
    expected = oracle.forward(spans, x)
    found = ours.forward(spans, x)
    _near(found, expected)
    some = [Span(i, 0, 1, (i,), i % 3 == 1) for i in range(KV_PAGES)]
    assert torch.equal(ours.forward(some, x), found[1::3])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", ["llama_groups", "gpt2_groups", "llama_int4", "gpt2_int4"])
def test_an_mlp_of_whole_groups_gives_rows_their_bits_in_any_number(
    kernels, case, threads, tiny, monkeypatch
):
    shard = Shard(start=1, stop=2, layers=LAYERS)
    many, few = (_stages(tiny(case).path, kernels, monkeypatch, shard)[0] for _ in range(2))
    x = torch.randn(170, _width(case), generator=torch.Generator().manual_seed(2))
    pages = (3, 1, 0)
    kernels.set_threads(threads)
    whole = many.forward([Span(0, 0, 170, pages, False)], x)
    parts = [few.forward([Span(0, i, 10, pages, False)], x[i : i + 10]) for i in range(0, 170, 10)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(("most", "calls"), [(1 << 30, 1), (1, LAYERS)])
def test_every_call_to_c_is_told_and_long_ones_are_parted(kernels, tiny, monkeypatch, most, calls):
    shard = Shard(start=0, stop=LAYERS, layers=LAYERS)
    ours, _ = _stages(tiny("llama").path, kernels, monkeypatch, shard)
    monkeypatch.setattr(program, "CALL_PRODUCTS", most)
    told = []
    ours.forward(SPANS, torch.zeros(ROWS, dtype=torch.int64), lambda: told.append(len(told)))
    assert told == list(range(calls))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"row_pos": -1}, "position is negative"),
        ({"row_pos": 128}, "beyond its page table"),
        ({"row_table": 2}, "names no row of the page tables"),
        ({"tables": KV_PAGES}, "names a page that the cache does not have"),
    ],
)
def test_rows_that_would_write_out_of_bounds(kernels, tiny, monkeypatch, damage, message):
    shard = Shard(start=1, stop=3, layers=LAYERS)
    ours, _ = _stages(tiny("llama").path, kernels, monkeypatch, shard)
    batch = lay_out(SPANS, Limits(KV_PAGES, 512))
    x = torch.randn(ROWS, 48)
    for name, value in damage.items():
        getattr(batch, name).view(-1)[-2] = value
    with pytest.raises(EngineError, match=message):
        ours._decoder.forward(batch, x, lambda: None)
    assert not ours.kv.keys.any()


@pytest.mark.parametrize(("case", "refused"), [("qwen2_window", True), ("mistral_window", False)])
def test_a_page_is_refused_if_any_layer_reads_it(kernels, tiny, monkeypatch, case, refused):
    """Of the windows of all layers the widest decides; in one model some layers have none."""
    shard = Shard(start=1, stop=4, layers=LAYERS)
    ours, _ = _stages(tiny(case).path, kernels, monkeypatch, shard)
    batch = lay_out([Span(0, 170, 1, (3, 1, 0), False)], Limits(KV_PAGES, 512))
    batch.tables[0, 0] = KV_PAGES
    if not refused:
        assert ours._decoder.forward(batch, torch.randn(1, 48), lambda: None).isfinite().all()
        return
    with pytest.raises(EngineError, match="names a page that the cache does not have"):
        ours._decoder.forward(batch, torch.randn(1, 48), lambda: None)
