"""A shard's weights, read and converted block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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
    loader = _Loader(checkpoint.files, form)
    first = layout.embedding() if shard.is_first else {}
    last = layout.head() if shard.is_last else {}
    table = layout.embedding()["embed"]
    embed = loader.table("embed", first["embed"]) if first else None
    layers = []
    for index in range(shard.start, shard.stop):
        layers.append(loader.layer(f"layer-{index}", layout.layer(index)))
        on_layer(len(layers), shard.stop - shard.start)
    head = None
    if last:
        head = loader.table("embed" if last["head"] == table else "head", last["head"])
    return Weights(
        layers=tuple(layers),
        embed=embed,
        positions=loader.plain(first["positions"]) if "positions" in first else None,
        norm=loader.affine("norm", last) if last else None,
        head=head,
        nbytes=loader.nbytes,
    )


class _Loader:
    def __init__(self, files: TensorFiles, form: Form) -> None:
        self._files = files
        self._form = form
        self._tables: dict[str, Matrix] = {}
        self.nbytes = 0

    def plain(self, wanted: Wanted) -> Tensor:
        """Norms, biases, positions: float32 always."""
        tensor = Stored(self._files, wanted).whole()
        self.nbytes += tensor.nbytes
        return tensor

    def affine(self, name: str, tensors: Mapping[str, Wanted]) -> Affine:
        return Affine(self.plain(tensors[f"{name}.weight"]), self._bias(name, tensors))

    def table(self, name: str, wanted: Wanted) -> Matrix:
        """Loaded once, however often it is asked for."""
        if name not in self._tables:
            self._tables |= self._matrices(name, {name: wanted})
        return self._tables[name]

    def layer(self, unit: str, tensors: Mapping[str, Wanted]) -> LayerWeights:
        names = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
        weights = {name: tensors[f"{name}.weight"] for name in names}
        wide = {name: wanted for name, wanted in weights.items() if len(wanted.shape) == 2}
        matrices = self._matrices(unit, wide)
        parts: dict[str, Any] = {
            name: Linear(matrices[name], self._bias(name, tensors))
            if name in matrices
            else self.affine(name, tensors)
            for name in names
        }
        return LayerWeights(**parts)

    def _bias(self, name: str, tensors: Mapping[str, Wanted]) -> Tensor | None:
        wanted = tensors.get(f"{name}.bias")
        return None if wanted is None else self.plain(wanted)

    def _matrices(self, unit: str, wanted: Mapping[str, Wanted]) -> dict[str, Matrix]:
        stored = {name: Stored(self._files, one) for name, one in wanted.items()}
        matrices = self._form.matrices(unit, stored)
        self.nbytes += sum(matrix.nbytes for matrix in matrices.values())
        return matrices
