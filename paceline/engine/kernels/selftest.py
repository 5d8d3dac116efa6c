"""A quick trial of a freshly loaded library, so that a miscompiled one is never used."""

from __future__ import annotations

from typing import get_args

import torch
from msgspec.structs import replace

from paceline.engine.eager import EagerMatrix
from paceline.engine.encode import encode
from paceline.engine.int4 import pack
from paceline.engine.kernels.calls import PAGE_KEYS, Kernels
from paceline.engine.quantised import Bits, QuantisedMatrix, quantise
from paceline.engine.sampling.draw import Ask, draw_rows
from paceline.types.stream import SamplingParams

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


def _quantised_linear_is_wrong(kernels: Kernels, generator: torch.Generator) -> bool:
    return any(_product_is_wrong(kernels, generator, bits) for bits in get_args(Bits))


def _encode_is_wrong(kernels: Kernels, generator: torch.Generator) -> bool:
    in_steps = _random(generator, 21, 192) * 40
    ours, exact = kernels.encode(in_steps), encode(in_steps)
    return not torch.equal(pack(ours), pack(exact))


def _product_is_wrong(kernels: Kernels, generator: torch.Generator, bits: Bits) -> bool:
    x, w = _random(generator, 13, 192), _random(generator, 21, 192)
    matrix = QuantisedMatrix(*quantise(w, bits), w.shape[1], bits)
    exact = EagerMatrix(matrix).linear(x, None)
    return not (
        torch.equal(kernels.quantised_linear(x, matrix), exact)
        and torch.equal(kernels.quantised_linear(x[3:4], matrix), exact[3:4])
    )


def _attention_is_wrong(kernels: Kernels, generator: torch.Generator) -> bool:
    heads, kv_heads, head_dim, keys = 4, 2, 24, PAGE_KEYS + 9
    q = _random(generator, keys, heads, head_dim)
    k, v = (_random(generator, 3, kv_heads, PAGE_KEYS, head_dim).half() for _ in range(2))
    by_element = k.transpose(2, 3).contiguous()
    position = torch.arange(keys)
    no_table = torch.zeros(keys, dtype=torch.int32)
    tables = torch.tensor([[2, 0]], dtype=torch.int32)
    scale = head_dim**-0.5
    ours = kernels.attention(q, by_element, v, position, no_table, tables, scale)
    seen_k, seen_v = (
        t[[2, 0]].transpose(0, 1).flatten(1, 2)[:, :keys].double().repeat_interleave(2, 0)
        for t in (k, v)
    )
    scores = torch.einsum("rhd,hkd->hrk", q.double(), seen_k) * scale
    scores.masked_fill_(position[None, None, :] > position[None, :, None], -torch.inf)
    exact = torch.einsum("hrk,hkd->rhd", scores.softmax(-1), seen_v).flatten(1)
    alone = kernels.attention(
        q[-1:], by_element, v, position[-1:].clone(), no_table[-1:].clone(), tables, scale
    )
    return _far(ours, exact) or not torch.equal(ours[-1:], alone)


def _elementwise_is_wrong(kernels: Kernels, generator: torch.Generator) -> bool:
    x, y, weight = _random(generator, 3, 37), _random(generator, 3, 37), _random(generator, 37)
    normed = torch.nn.functional.rms_norm(x.double(), (37,), weight.double(), 1e-5)
    gated = torch.nn.functional.silu(x.double()) * y.double()
    return _far(kernels.norm("rms", x, weight, None, 1e-5), normed) or _far(
        kernels.activate("silu", True, torch.cat((x, y), 1)), gated
    )


def _draw_is_wrong(kernels: Kernels, generator: torch.Generator) -> bool:
    logits = (_random(generator, 4, 600) * 3).numpy()
    plain = SamplingParams(max_tokens=1, seed=0)
    styles = (
        plain,
        replace(plain, temperature=0.0),
        replace(plain, top_p=0.9),
        replace(plain, top_k=20, min_p=0.01),
    )
    asks = [Ask(row, style, 0.4) for row, style in zip(logits, styles, strict=True)]
    return kernels.draw(asks) != draw_rows(asks)


def wrong_kernels(kernels: Kernels) -> list[str]:
    """Names of the kernels whose results are wrong. Takes 5 to 10 ms."""
    generator = torch.Generator().manual_seed(1)
    trials = {
        "linear": _linear_is_wrong,
        "quantised linear": _quantised_linear_is_wrong,
        "encode": _encode_is_wrong,
        "attention": _attention_is_wrong,
        "elementwise": _elementwise_is_wrong,
        "draw": _draw_is_wrong,
    }
    return [name for name, is_wrong in trials.items() if is_wrong(kernels, generator)]
