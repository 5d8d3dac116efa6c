"""A quick trial of a freshly loaded library, so that a miscompiled one is never used."""

from __future__ import annotations

import torch

from paceline.engine.kernels.calls import PAGE_KEYS, Kernels

_TOLERANCE = 1e-4


def _random(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


def _far(ours: torch.Tensor, exact: torch.Tensor) -> bool:
    return not torch.allclose(ours.double(), exact, rtol=_TOLERANCE, atol=_TOLERANCE)


def _linear_is_wrong(kernels: Kernels, generator: torch.Generator) -> bool:
    x, w, bias = _random(generator, 7, 83), _random(generator, 21, 83), _random(generator, 21)
    ours = kernels.linear(x, w, bias)
    alone = kernels.linear(x[3:4], w, bias)
    exact = x.double() @ w.double().T + bias.double()
    return _far(ours, exact) or not torch.equal(ours[3:4], alone)


def _attention_is_wrong(kernels: Kernels, generator: torch.Generator) -> bool:
    heads, kv_heads, head_dim, keys = 4, 2, 24, PAGE_KEYS + 9
    q = _random(generator, keys, heads, head_dim)
    k, v = (_random(generator, 3, kv_heads, PAGE_KEYS, head_dim) for _ in range(2))
    position = torch.arange(keys)
    no_table = torch.zeros(keys, dtype=torch.int32)
    tables = torch.tensor([[2, 0]], dtype=torch.int32)
    scale = head_dim**-0.5
    ours = kernels.attention(q, k, v, position, no_table, tables, scale)
    seen_k, seen_v = (
        t[[2, 0]].transpose(0, 1).flatten(1, 2)[:, :keys].double().repeat_interleave(2, 0)
        for t in (k, v)
    )
    scores = torch.einsum("rhd,hkd->hrk", q.double(), seen_k) * scale
    scores.masked_fill_(position[None, None, :] > position[None, :, None], -torch.inf)
    exact = torch.einsum("hrk,hkd->rhd", scores.softmax(-1), seen_v).flatten(1)
    alone = kernels.attention(
        q[-1:], k, v, position[-1:].clone(), no_table[-1:].clone(), tables, scale
    )
    return _far(ours, exact) or not torch.equal(ours[-1:], alone)


def _elementwise_is_wrong(kernels: Kernels, generator: torch.Generator) -> bool:
    x, y, weight = _random(generator, 3, 37), _random(generator, 3, 37), _random(generator, 37)
    normed = torch.nn.functional.rms_norm(x.double(), (37,), weight.double(), 1e-5)
    gated = torch.nn.functional.silu(x.double()) * y.double()
    return _far(kernels.rms_norm(x, weight, 1e-5), normed) or _far(kernels.silu_mul(x, y), gated)


def wrong_kernels(kernels: Kernels) -> list[str]:
    """Names of the kernels whose results are wrong. Takes about a millisecond."""
    generator = torch.Generator().manual_seed(1)
    trials = {
        "linear": _linear_is_wrong,
        "attention": _attention_is_wrong,
        "elementwise": _elementwise_is_wrong,
    }
    return [name for name, is_wrong in trials.items() if is_wrong(kernels, generator)]
