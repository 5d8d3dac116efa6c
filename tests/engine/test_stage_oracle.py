"""Logits against `transformers`, float32 with eager attention; int8 near it."""

from __future__ import annotations

import pytest
import torch

from tests.engine.line import Line, alone
from tests.engine.tiny import CASES, LAYERS, VOCAB

TOKENS = 150


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case, tiny, ops):
    path, model = tiny(case)
    ids = torch.randint(VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids]), use_cache=False).logits[0]
    tolerance = 1e-4 * float(expected.abs().max())
    line = Line(path, [LAYERS], ops, kv_pages=4)

    whole = alone(line, ids, chunk=TOKENS)
    stepwise = alone(line, ids, chunk=1)

    assert (whole[TOKENS - 1] - expected[-1]).abs().max() <= tolerance
    found = torch.stack([stepwise[i] for i in range(TOKENS)])
    assert (found - expected).abs().max() <= tolerance
    assert (found.argmax(1) == expected.argmax(1)).all()


def test_the_tolerance_notices_a_wrong_model(tiny, ops):
    path, _ = tiny("rope_linear")
    _, other = tiny("rope_llama3")
    ids = list(range(TOKENS // 2))
    with torch.no_grad():
        expected = other(torch.tensor([ids]), use_cache=False).logits[0, -1]
    found = alone(Line(path, [LAYERS], ops, kv_pages=4), ids, chunk=len(ids))[len(ids) - 1]
    assert (found - expected).abs().max() > 0.01 * expected.abs().max()


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("case", CASES)
def test_int8_stays_near_transformers(case, tiny, ops):
    """Random weights of 48 columns are int8's worst case: no number is small beside another."""
    path, model = tiny(case)
    _, other = tiny("rope_linear" if case != "rope_linear" else "rope_llama3")
    ids = torch.randint(VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(1)).tolist()
    found = alone(Line(path, [LAYERS], ops, kv_pages=4, dtype="int8"), ids, chunk=10)
    with torch.no_grad():
        expected, wrong = (
            one(torch.tensor([ids]), use_cache=False).logits[0][list(found)]
            for one in (model, other)
        )
    ours = torch.stack([*found.values()])
    assert _distance(ours, expected) <= 0.12
    assert _distance(ours, wrong) >= 0.3
