"""The C kernels that work row by row: norms and activations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from paceline.engine.kernels import Kernels
from tests.engine.kernel_builds import random

WIDTHS = [1, 7, 16, 24, 64, 576, 1531]
EXACT: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norm(kernels: Kernels, portable: Kernels, kind: str, width: int) -> None:
    x = random(40, width) * 3 + 1
    weight, bias = random(width, seed=1), random(width, seed=2)
    exact = (
        F.rms_norm(x.double(), (width,), weight.double(), 1e-5) + bias.double()
        if kind == "rms"
        else F.layer_norm(x.double(), (width,), weight.double(), bias.double(), 1e-5)
    )
    ours = kernels.norm(kind, x, weight, bias, 1e-5)
    torch.testing.assert_close(ours.double(), exact, rtol=2e-6, atol=2e-6)
    assert torch.equal(portable.norm(kind, x, weight, bias, 1e-5), ours)
    kernels.set_threads(2)
    for rows in (1, 3, 40):
        assert torch.equal(kernels.norm(kind, x[-rows:], weight, bias, 1e-5), ours[-rows:])
    plain = kernels.norm(kind, x, weight, None, 1e-5)
    torch.testing.assert_close(plain + bias, ours, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("width", [1, 7, 64, 1531])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("kind", EXACT)
def test_activate(kernels: Kernels, portable: Kernels, kind: str, gated: bool, width: int) -> None:
    x = torch.cat((random(40, width) * 4, random(40, width, seed=1)), 1)
    gate, up = x.double().chunk(2, 1)
    exact = EXACT[kind](gate) * up if gated else EXACT[kind](x.double())
    ours = kernels.activate(kind, gated, x)
    torch.testing.assert_close(ours.double(), exact, rtol=4e-6, atol=2e-6)
    assert torch.equal(portable.activate(kind, gated, x), ours)
    kernels.set_threads(2)
    for rows in (1, 3, 40):
        assert torch.equal(kernels.activate(kind, gated, x[-rows:]), ours[-rows:])


def test_silu_is_exact_to_some_last_places(kernels: Kernels) -> None:
    x = random(40, 1000) * 20
    ours = kernels.activate("silu", False, x)
    torch.testing.assert_close(ours.double(), F.silu(x.double()), rtol=4e-7, atol=1e-30)


def test_gelu_keeps_its_relative_accuracy_in_the_tail(kernels: Kernels) -> None:
    x = torch.linspace(-9, 9, 4001)[None]
    ours = kernels.activate("gelu", False, x)
    exact = x.double() * torch.special.erfc(-x.double() * 0.5**0.5) / 2
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("kind", EXACT)
def test_activations_at_the_ends(kernels: Kernels, kind: str) -> None:
    x = torch.tensor([[-200.0, -88.5, 0.0, 88.5, 200.0, torch.inf, torch.nan]])
    ours = kernels.activate(kind, False, x)
    assert ours[0, 2:6].tolist() == [0.0, 88.5, 200.0, torch.inf]
    assert ours[0, :2].abs().max() < 1e-35
    assert ours[0, 6].isnan()


@pytest.mark.parametrize("width", [1, 15, 17, 64, 20_000])
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_damage_is_found_wherever_it_is(kernels: Kernels, width: int, bad: float) -> None:
    kernels.set_threads(2)
    x = random(5, width) * (torch.finfo(torch.float32).max / 10)
    assert kernels.finite(x)
    assert kernels.finite(x[:0])
    for row, column in ((0, 0), (2, width // 2), (4, width - 1)):
        damaged = x.clone()
        damaged[row, column] = bad
        assert not kernels.finite(damaged)
