"""Quantised weights against float32 on real prose, on as much text as a test has time for."""

from __future__ import annotations

import torch

from benchmarks.quality import Quality, all_logits, compare
from benchmarks.text import Text
from paceline.types.model import PAGE_TOKENS
from tests.engine.line import Line, alone
from tests.engine.tiny import LAYERS, VOCAB
from tests.support.models import smollm2_dir

TOKENS = 448


def test_int8_passes_the_gate_on_the_real_model():
    found = compare(smollm2_dir(), Text(smollm2_dir()).ids[:TOKENS], "int8")
    assert found.tokens == TOKENS - 1
    assert 10 < found.baseline < 40, "float32 itself is not what it was"
    assert found.passes, found
    assert found.agreement > 0.9


def test_int4_of_a_model_that_was_in_4_bits_before_loses_little():
    """Its file is Q4_1: 16 even levels for the same 32 weights."""
    found = compare(smollm2_dir(), Text(smollm2_dir()).ids[:TOKENS], "int4")
    assert found.ratio < 1.03, found
    assert found.kl < 0.02, found


def test_the_gate_shuts():
    assert Quality(10, 10.09, 10.0, 0.014, 0.9).passes
    assert not Quality(10, 10.11, 10.0, 0.014, 0.9).passes
    assert not Quality(10, 10.0, 10.0, 0.016, 0.9).passes


def test_every_rows_logits_are_those_of_the_line(tiny, dtype):
    path, _ = tiny("llama")
    draw = torch.Generator().manual_seed(5)
    ids = torch.randint(VOCAB, (2 * PAGE_TOKENS + 9,), generator=draw).tolist()
    truth = alone(Line(path, [LAYERS], "auto", dtype=dtype), ids, chunk=1)
    seen = {}
    for positions, logits in all_logits(path, ids, dtype):
        seen |= dict(zip(positions.tolist(), logits, strict=True))
    assert seen.keys() == truth.keys()
    assert all(torch.equal(seen[i], truth[i]) for i in truth)
