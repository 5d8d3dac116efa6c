"""A shard's weights, read and converted block by block, several units at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paceline.checkpoint.facts import Checkpoint
from paceline.checkpoint.layout import Tensor as Wanted
from paceline.checkpoint.tensors import TensorFiles
from paceline.engine.forms import Form
from paceline.engine.matrices import Matrix
from paceline.engine.stored import Stored
from paceline.types.model import Shard

OnLayer = Callable[[int, int], None]
"""Called with (layers loaded, layers in all); an exception from it cancels the load."""


@dataclass(frozen=True, slots=True)
class Affine:
    """A norm [width], float32."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Linear:
    """[columns, depth], with or without a float32 bias [columns]."""

    matrix: Matrix
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return self.matrix.linear(x, self.bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    attn_norm: Affine
    qkv: Linear
    """Queries of all heads, then keys, then values."""
    q_norm: Affine | None = None
    k_norm: Affine | None = None
    o: Linear
    mlp_norm: Affine
    up: Linear
    """Where the MLP is gated, gate first and up below it."""
    down: Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """`embed` and `positions` on the first rank, `norm` and `head` on the last; a tied table is
    one matrix where a rank is both."""

    layers: tuple[LayerWeights, ...]
    embed: Matrix | None
    positions: Tensor | None
    norm: Affine | None
    head: Matrix | None
    nbytes: int


def load_weights(checkpoint: Checkpoint, shard: Shard, form: Form, on_layer: OnLayer) -> Weights:
    """Raises CheckpointError; whatever `on_layer` raises passes through."""
    layout = checkpoint.layout
    first = layout.embedding() if shard.is_first else {}
    last = layout.head() if shard.is_last else {}
    head = "embed" if last and last["head"] == layout.embedding()["embed"] else "head"
    layers = {f"layer-{index}": layout.layer(index) for index in range(shard.start, shard.stop)}

    units = {"embed": {"embed": first["embed"]}} if first else {}
    units |= {unit: _matrices_of(layer) for unit, layer in layers.items()}
    if last:
        units.setdefault(head, {head: last["head"]})
    loader = _Loader(checkpoint.files, form)
    loaded: list[str] = []

    def on_unit(unit: str) -> None:
        if unit in layers:
            loaded.append(unit)
            on_layer(len(loaded), len(layers))

    made = loader.units(units, on_unit)
    return Weights(
        layers=tuple(loader.layer(layer, made[unit]) for unit, layer in layers.items()),
        embed=made["embed"]["embed"] if first else None,
        positions=loader.plain(first["positions"]) if "positions" in first else None,
        norm=loader.affine("norm", last) if last else None,
        head=made[head][head] if last else None,
        nbytes=loader.nbytes,
    )


def _names(layer: Mapping[str, Wanted]) -> tuple[str, ...]:
    """ "qkv" for "qkv.weight" and "qkv.bias"."""
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in layer))


def _matrices_of(layer: Mapping[str, Wanted]) -> dict[str, Wanted]:
    weights = {name: layer[f"{name}.weight"] for name in _names(layer)}
    return {name: wanted for name, wanted in weights.items() if len(wanted.shape) == 2}


class _Loader:
    def __init__(self, files: TensorFiles, form: Form) -> None:
        self._files = files
        self._form = form
        self.nbytes = 0

    def units(
        self, units: Mapping[str, Mapping[str, Wanted]], on_unit: Callable[[str], None]
    ) -> dict[str, dict[str, Matrix]]:
        """The matrices of each unit, made on as many threads as torch uses. `on_unit` follows each
        in this order; when it or a unit fails, no other is begun."""
        made = {}
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            try:
                futures = {unit: pool.submit(self._unit, unit, units[unit]) for unit in units}
                for unit, future in futures.items():
                    made[unit] = future.result()
                    self.nbytes += sum(matrix.nbytes for matrix in made[unit].values())
                    on_unit(unit)
            finally:
                pool.shutdown(cancel_futures=True)
        return made

    def _unit(self, unit: str, wanted: Mapping[str, Wanted]) -> dict[str, Matrix]:
        stored = {name: Stored(self._files, one) for name, one in wanted.items()}
        return self._form.matrices(unit, stored)

    def plain(self, wanted: Wanted) -> Tensor:
        """Norms, biases, positions: float32 always."""
        tensor = Stored(self._files, wanted).whole()
        self.nbytes += tensor.nbytes
        return tensor

    def affine(self, name: str, tensors: Mapping[str, Wanted]) -> Affine:
        return Affine(self.plain(tensors[f"{name}.weight"]), self._bias(name, tensors))

    def layer(self, tensors: Mapping[str, Wanted], matrices: Mapping[str, Matrix]) -> LayerWeights:
        parts: dict[str, Any] = {
            name: Linear(matrices[name], self._bias(name, tensors))
            if name in matrices
            else self.affine(name, tensors)
            for name in _names(tensors)
        }
        return LayerWeights(**parts)

    def _bias(self, name: str, tensors: Mapping[str, Wanted]) -> Tensor | None:
        wanted = tensors.get(f"{name}.bias")
        return None if wanted is None else self.plain(wanted)
