"""A shard's weights as float32 tensors, read and converted block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from paceline.checkpoint.facts import Checkpoint
from paceline.checkpoint.layout import Part
from paceline.checkpoint.layout import Tensor as Wanted
from paceline.checkpoint.tensors import TensorFiles, TensorInfo
from paceline.types.errors import CheckpointError
from paceline.types.model import Shard

OnLayer = Callable[[int, int], None]
"""Called with (layers loaded, layers in all); an exception from it cancels the load."""

_DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_BLOCK_BYTES = 8 << 20
"""Read at once: what a load needs beside the weights themselves."""


@dataclass(frozen=True, slots=True)
class Affine:
    """A linear [out, in] or a norm [width], with or without a bias [out]."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    attn_norm: Affine
    qkv: Affine
    """Queries of all heads, then keys, then values."""
    q_norm: Affine | None = None
    k_norm: Affine | None = None
    o: Affine
    mlp_norm: Affine
    up: Affine
    """Where the MLP is gated, gate first and up below it."""
    down: Affine


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """`embed` and `positions` on the first rank, `norm` and `head` on the last; a tied table is
    one tensor where a rank is both."""

    layers: tuple[LayerWeights, ...]
    embed: Tensor | None
    positions: Tensor | None
    norm: Affine | None
    head: Tensor | None
    nbytes: int


def load_weights(checkpoint: Checkpoint, shard: Shard, on_layer: OnLayer) -> Weights:
    """Raises CheckpointError; whatever `on_layer` raises passes through."""
    layout = checkpoint.layout
    loader = _Loader(checkpoint.files)
    first = loader.all(layout.embedding()) if shard.is_first else {}
    layers = []
    for index in range(shard.start, shard.stop):
        layers.append(LayerWeights(**_affines(loader.all(layout.layer(index)))))
        on_layer(len(layers), shard.stop - shard.start)
    last = loader.all(layout.head()) if shard.is_last else {}
    head = last.pop("head", None)
    return Weights(
        layers=tuple(layers),
        embed=first.get("embed"),
        positions=first.get("positions"),
        norm=_affines(last).get("norm"),
        head=head,
        nbytes=loader.nbytes,
    )


class _Loader:
    """Loads each tensor of the layout once."""

    def __init__(self, files: TensorFiles) -> None:
        self._files = files
        self._tables: dict[Wanted, Tensor] = {}
        self.nbytes = 0

    def all(self, wanted: Mapping[str, Wanted]) -> dict[str, Tensor]:
        return {name: self._one(tensor) for name, tensor in wanted.items()}

    def _one(self, wanted: Wanted) -> Tensor:
        if wanted not in self._tables:
            self._tables[wanted] = _load(self._files, wanted)
            self.nbytes += self._tables[wanted].nbytes
        return self._tables[wanted]


def _affines(tensors: Mapping[str, Tensor]) -> dict[str, Affine]:
    names = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
    return {name: Affine(tensors[f"{name}.weight"], tensors.get(f"{name}.bias")) for name in names}


def _load(files: TensorFiles, wanted: Wanted) -> Tensor:
    """Parts go below each other; stored transposed, they go beside each other's rows."""
    out = torch.empty(wanted.shape)
    filled = 0
    for part in wanted.parts:
        if wanted.transposed:
            columns = part.shape[1]
            _copy(files, part, out[filled : filled + columns].t())
            filled += columns
        else:
            _copy(files, part, out[filled : filled + part.shape[0]])
            filled += part.shape[0]
    return out


def _copy(files: TensorFiles, part: Part, out: Tensor) -> None:
    """Fill `out`, of the part's shape, from disk."""
    info = files.info(part.name)
    dtype = _dtype(info)
    rows = info.shape[0]
    step = max(1, _BLOCK_BYTES * rows // max(info.nbytes, 1))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        block = torch.from_numpy(files.read(info.name, start, stop)).view(dtype)
        out[start:stop] = block.view(stop - start, *info.shape[1:])


def _dtype(info: TensorInfo) -> torch.dtype:
    if info.dtype not in _DTYPES:
        raise CheckpointError(
            f"{info.path}: tensor {info.name} is {info.dtype}; weights can be {', '.join(_DTYPES)}"
        )
    return _DTYPES[info.dtype]
