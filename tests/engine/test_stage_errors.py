"""What a stage refuses, and what its caller hears."""

from __future__ import annotations

import pytest
import torch

from paceline.checkpoint.facts import shard_bytes
from paceline.engine import kernels
from paceline.engine.stage import Stage
from paceline.types.errors import CheckpointError, EngineError
from paceline.types.model import Shard
from paceline.types.step import Span
from tests.engine.line import Line, alone
from tests.engine.tiny import LAYERS, VOCAB, make

WHOLE = Shard(start=0, stop=LAYERS, layers=LAYERS)
KV_PAGES = 6


@pytest.fixture
def stage(tiny, ops, dtype):
    return Stage.load(tiny("llama").path, WHOLE, kv_pages=KV_PAGES, ops=ops, dtype=dtype)


def _ids(rows: int) -> torch.Tensor:
    return torch.arange(rows) % VOCAB


GOOD = Span(1, 0, 3, (0,), True)


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        ([Span(1, 0, 0, (0,), True)], "slot 1: no rows"),
        ([Span(1, 0, -3, (0,), True)], "slot 1: no rows"),
        ([Span(1, -1, 3, (0,), True)], "slot 1: no rows"),
        ([Span(1, 62, 3, (0,), True)], "1 pages do not cover 65"),
        ([Span(1, 0, 3, (), True)], "0 pages do not cover 3"),
        ([Span(1, 0, 3, (KV_PAGES,), True)], "is not one of 6"),
        ([Span(1, 0, 3, (-1,), True)], "is not one of 6"),
        ([Span(1, 0, 3, (0, 99), True)], "is not one of 6"),
        ([Span(1, 511, 2, tuple(range(6)) * 2, True)], "position 512 is beyond the context of 512"),
        ([Span(1, 384, 2, tuple(range(6)) * 2, True)], "the 6 KV pages"),
        ([GOOD, Span(1, 0, 3, (1,), True)], "two spans in one step"),
        ([GOOD, Span(2, 0, 3, (0,), True)], "slot 2: a page would be written twice"),
        ([Span(1, 0, 3, (0,), True, (4, 5, 6))], "slot 1: 3 guesses in 3 rows"),
        ([Span(1, 0, 3, (0,), False, (4,))], "slot 1: 1 guesses in 3 rows"),
        ([Span(1, 0, 100, (3, 3), True)], "slot 1: a page would be written twice"),
    ],
)
def test_spans_that_contradict_each_other_or_the_cache(stage, spans, reason):
    rows = sum(max(span.count, 0) for span in spans)
    with pytest.raises(EngineError, match=reason):
        stage.forward(spans, _ids(rows))


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (_ids(2), "has 3 rows"),
        (_ids(4), "has 3 rows"),
        (_ids(3).float(), "torch.int64"),
        (_ids(3)[None], "has 3 rows"),
        (torch.tensor([0, 1, VOCAB]), "0..97 are not within a vocabulary of 97"),
        (torch.tensor([0, -1, 5]), "-1..5 are not within a vocabulary"),
    ],
)
def test_inputs_that_do_not_fit(stage, x, reason):
    with pytest.raises(EngineError, match=reason):
        stage.forward([GOOD], x)


def test_a_refused_step_leaves_the_stage_as_it_was(tiny, ops, dtype):
    ids = _ids(30).tolist()
    line = Line(tiny("llama").path, [LAYERS], ops, dtype=dtype)
    expected = alone(line, ids, chunk=10)
    line.step([Span(0, 0, 10, (0,), False)], ids[:10])
    with pytest.raises(EngineError):
        line.step([Span(0, 0, 10, (0,), False)], [VOCAB] * 10)
    with pytest.raises(EngineError):
        line.step([Span(0, 0, 10, (0,), False), Span(1, 0, 5, (99,), False)], [1] * 15)
    found = line.step([Span(0, 10, 10, (0,), True)], ids[10:20])
    assert torch.equal(found[0], expected[19])


def test_logits_come_for_sampling_spans_in_their_order(stage):
    spans = [
        Span(0, 0, 4, (0,), True),
        Span(1, 0, 5, (1,), False),
        Span(2, 0, 2, (2,), True),
    ]
    both = stage.forward(spans, _ids(11))
    assert both.shape == (2, VOCAB)
    assert torch.equal(stage.forward(spans[:1], _ids(4))[0], both[0])
    assert torch.equal(stage.forward(spans[2:], _ids(11)[9:])[0], both[1])


def test_steps_without_rows_or_without_samples(tiny, stage, ops, dtype):
    assert stage.forward([], _ids(0)).shape == (0, VOCAB)
    assert stage.forward([Span(1, 0, 3, (0,), False)], _ids(3)).shape == (0, VOCAB)
    shard = Shard(start=0, stop=2, layers=LAYERS)
    first = Stage.load(tiny("llama").path, shard, kv_pages=1, ops=ops, dtype=dtype)
    assert first.forward([], _ids(0)).shape == (0, 48)
    assert first.forward([Span(1, 0, 3, (0,), False)], _ids(3)).shape == (3, 48)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_no_numbers_fail_the_rank_that_made_them(tiny, ops, dtype, bad):
    shard = Shard(start=2, stop=5, layers=LAYERS)
    middle = Stage.load(tiny("llama").path, shard, kv_pages=1, ops=ops, dtype=dtype)
    x = torch.ones(3, 48)
    middle.forward([GOOD], x)
    x[1, 7] = bad
    with pytest.raises(EngineError, match=r"layers \[2, 5\) made NaN or infinite"):
        middle.forward([GOOD], x)


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        (
            {"dtype": "int2"},
            EngineError,
            "'int2' is not supported; use auto or one of: int8, int4, float",
        ),
        (
            {"dtype": "int4"},
            EngineError,
            "int4 needs depths in multiples of 64, and this model has 48; use int8",
        ),
        ({"kv_pages": 0}, EngineError, "at least one KV page"),
        ({"kv_pages": 1 << 50}, EngineError, "ask for fewer"),
        ({"shard": Shard(start=0, stop=9, layers=9)}, CheckpointError, "has 7 layers"),
        (
            {"shard": Shard(start=0, stop=2, layers=LAYERS, tp_rank=1, tp_size=2)},
            EngineError,
            "tp_size is 1",
        ),
    ],
)
def test_loads_that_cannot_work(tiny, options, error, reason):
    settings = {"shard": WHOLE, "kv_pages": 1} | options
    with pytest.raises(error, match=reason):
        Stage.load(tiny("llama").path, settings.pop("shard"), **settings)


def test_sizes_and_numerics_of_float32(tiny, ops):
    stage = Stage.load(tiny("llama").path, WHOLE, kv_pages=3, ops=ops, dtype="float32")
    assert stage.weight_bytes == shard_bytes(tiny("llama").path, WHOLE)
    assert stage.kv_bytes == 2 * LAYERS * 3 * 2 * 64 * 8 * 4
    assert "float32" in stage.numerics_id
    assert f"torch-{torch.__version__}" in stage.numerics_id


def test_auto_is_int8_and_takes_a_quarter_and_half_the_kv(tiny, ops):
    path = tiny("llama_tied").path
    stage = Stage.load(path, WHOLE, kv_pages=3, ops=ops)
    assert stage.kv_bytes == 2 * LAYERS * 3 * 6 * 64 * 8 * 2
    outputs = LAYERS * (3 * 48 + 48 + 200 + 48) + VOCAB + (16 - VOCAB % 16) * 48 // 4
    inputs = shard_bytes(path, WHOLE) / 4
    assert inputs < stage.weight_bytes < 1.1 * inputs + 5 * outputs
    assert "/int8-g64/kv-float16/" in stage.numerics_id


def test_the_kernels_int8_is_named_by_no_instruction_set(tiny):
    path = tiny("llama").path
    built = kernels.load()
    if built is None:
        pytest.skip("the C kernels are not built here")
    stage = Stage.load(path, WHOLE, kv_pages=1, ops="c")
    assert stage.numerics_id.startswith(f"{built.build}/int8")
    float32 = Stage.load(path, WHOLE, kv_pages=1, ops="c", dtype="float32")
    assert float32.numerics_id.startswith(f"{built.name}/float32")


def test_kernels_that_are_not_built(tiny, monkeypatch):
    monkeypatch.setattr(kernels, "load", lambda: None)
    assert "reference/" in Stage.load(tiny("llama").path, WHOLE, kv_pages=1).numerics_id
    with pytest.raises(EngineError, match="not built here"):
        Stage.load(tiny("llama").path, WHOLE, kv_pages=1, ops="c")


def test_heads_that_the_kernels_do_not_handle_go_to_the_reference(tmp_path, dtype):
    if kernels.load() is None:
        pytest.skip("the C kernels are not built here")
    make("heads_of_12", tmp_path)
    ids = list(range(70))
    mixed = Line(tmp_path, [LAYERS], "c", dtype=dtype)
    assert "+reference-attention/" in mixed.stages[0].numerics_id
    expected = alone(Line(tmp_path, [LAYERS], "reference", dtype=dtype), ids, chunk=70)[69]
    found = alone(mixed, ids, chunk=70)[69]
    tolerance = 1e-4 if dtype == "float32" else 0.05
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_a_tied_table_is_held_once(tiny, dtype):
    stage = Stage.load(tiny("llama_tied").path, WHOLE, kv_pages=1, dtype=dtype)
    assert stage.weights.head is stage.weights.embed
    assert stage.weights.head is not None
    last = Stage.load(
        tiny("llama_tied").path,
        Shard(start=3, stop=LAYERS, layers=LAYERS),
        kv_pages=1,
        dtype=dtype,
    )
    assert last.weights.embed is None
    assert last.weights.head is not None


def test_progress_is_told_and_can_cancel(tiny):
    told = []
    shard = Shard(start=1, stop=4, layers=LAYERS)
    Stage.load(
        tiny("llama").path,
        shard,
        kv_pages=1,
        on_layer=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]

    def cancel(done: int, total: int) -> None:
        raise InterruptedError(done)

    with pytest.raises(InterruptedError, match="1"):
        Stage.load(tiny("llama").path, shard, kv_pages=1, on_layer=cancel)
