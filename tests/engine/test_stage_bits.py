"""The same bits, whatever happens: splits, chunks, company, page placement, threads, instruction
sets."""

from __future__ import annotations

import pytest
import torch

from paceline.engine import kernels as built_kernels
from tests.engine.line import Line, alone, together
from tests.engine.tiny import LAYERS, VOCAB

FAMILIES = ["llama", "mistral_window", "qwen2_window", "qwen3", "gpt2"]
SPLITS = [[LAYERS], [2, 5], [1, 4, 2], [1, 2, 1, 2, 1]]


def _prompts() -> list[list[int]]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randint(VOCAB, (n,), generator=draw).tolist() for n in (150, 3, 64, 91)]


@pytest.mark.parametrize("case", FAMILIES)
def test_splits_chunks_company_and_pages_change_no_bit(case, tiny, ops, dtype):
    path, _ = tiny(case)
    prompts = _prompts()
    single = Line(path, [LAYERS], ops, dtype=dtype)
    truth = [alone(single, ids, chunk=1) for ids in prompts]
    compared = 0
    for seed, sizes in enumerate(SPLITS):
        line = Line(path, sizes, ops, dtype=dtype)
        found = together(line, prompts, seed)
        whole = alone(line, prompts[0], chunk=len(prompts[0]), pages=range(23, 0, -1))
        for expected, logits in [*zip(truth, found, strict=True), (truth[0], whole)]:
            for position, row in logits.items():
                assert torch.equal(row, expected[position]), (sizes, position)
                compared += 1
    assert compared >= 30


@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_threads_change_no_bit(case, tiny, ops, dtype, use_threads):
    path, _ = tiny(case)
    line = Line(path, [LAYERS], ops, dtype=dtype)
    prompts = _prompts()[1:3]
    truth = together(line, prompts, seed=5)
    use_threads(2)
    for expected, found in zip(truth, together(line, prompts, seed=5), strict=True):
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[i], expected[i]) for i in found)


def test_what_a_page_held_before_does_not_matter(tiny, ops, dtype):
    path, _ = tiny("llama")
    ids = _prompts()[3]
    fresh = Line(path, [LAYERS], ops, dtype=dtype)
    used = Line(path, [LAYERS], ops, dtype=dtype)
    for stage in used.stages:
        stage.kv.keys.fill_(torch.nan)
        stage.kv.values.fill_(torch.inf)
    expected, found = alone(fresh, ids, chunk=33), alone(used, ids, chunk=33)
    assert all(torch.equal(found[i], expected[i]) for i in expected)


@pytest.mark.skipif(built_kernels.load() is None, reason="the C kernels are not built here")
@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *((case, "int8") for case in (*FAMILIES, "llama_biases", "qwen3_biases")),
        ("llama_int4", "int4"),
        ("gpt2_int4", "int4"),
    ],
)
def test_instruction_sets_change_no_bit(case, dtype, tiny, all_kernels, monkeypatch):
    path, _ = tiny(case)
    prompts = _prompts()[1:]
    found = {}
    for isa, one in all_kernels.items():
        monkeypatch.setattr(built_kernels, "load", lambda one=one: one)
        line = Line(path, [LAYERS], "c", dtype=dtype)
        found[isa] = together(line, prompts, seed=2)
        ids = {stage.numerics_id for stage in line.stages}
        assert len(ids) == 1
        found[isa].append({0: ids.pop()})
    *logits, ids = found.pop("portable")
    for *others, other_id in found.values():
        assert other_id == ids
        for expected, ours in zip(logits, others, strict=True):
            assert expected.keys() == ours.keys()
            assert all(torch.equal(ours[i], expected[i]) for i in expected)
