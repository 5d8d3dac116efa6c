"""How a stage computes: its dtype, who computes it, and the id of the bits that come out."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from paceline.checkpoint.architecture import LayerConfig, ModelConfig
from paceline.checkpoint.rope import AnyRope
from paceline.engine import int4, kernels
from paceline.engine.cache import UnitCache
from paceline.engine.eager import EagerMatrix
from paceline.engine.forms import FloatForm, Form, QuantisedForm
from paceline.engine.kernels import Kernels
from paceline.engine.kv import KVCache
from paceline.engine.layers import ComposedHead, ComposedLayers
from paceline.engine.matrices import Matrix, PackedMatrix
from paceline.engine.ops import KernelsWithout, Ops
from paceline.engine.program import HeadProgram, LayerProgram
from paceline.engine.quantised import Bits
from paceline.engine.reference import ReferenceOps
from paceline.engine.rope import RopeTable
from paceline.engine.weights import Affine, LayerWeights
from paceline.types.errors import EngineError

OpsChoice = Literal["auto", "reference", "c"]
AUTO = "int8"


@dataclass(frozen=True, slots=True)
class Numerics:
    ops: Ops
    form: Form
    kv_dtype: torch.dtype
    parts: tuple[str, ...]
    """What decides over the bits, beside the versions of what is below."""
    kernels: Kernels | None = None
    """Those that run whole layers; None where layers are composed of `ops`."""

    @property
    def id(self) -> str:
        """Equal ids mean equal bits."""
        versions = (f"torch-{torch.__version__}", f"numpy-{np.__version__}")
        return "/".join((*self.parts, *versions, platform.machine()))

    def layers(
        self,
        config: ModelConfig,
        layers: Sequence[LayerConfig],
        weights: Sequence[LayerWeights],
        kv: KVCache,
        ropes: Mapping[AnyRope, RopeTable],
    ) -> LayerProgram | ComposedLayers:
        if self.kernels is not None:
            return LayerProgram(self.kernels, config, layers, weights, kv, ropes)
        return ComposedLayers(self.ops, config, layers, weights, kv, ropes)

    def head(self, config: ModelConfig, norm: Affine, head: Matrix) -> HeadProgram | ComposedHead:
        if self.kernels is not None and isinstance(head, PackedMatrix):
            return HeadProgram(self.kernels, config, norm, head)
        return ComposedHead(self.ops, config, norm, head)


def choose_numerics(
    dtype: str, choice: OpsChoice, config: ModelConfig, cache: UnitCache | None = None
) -> Numerics:
    """`choice` "auto" takes the C kernels where they were built and run here, else the reference.
    `cache` keeps quantised weights.

    Raises EngineError for a dtype that there is not, and when "c" is asked for and is not there.
    """
    resolved = AUTO if dtype == "auto" else dtype
    if resolved not in _DTYPES:
        raise EngineError(
            f"dtype {dtype!r} is not supported; use auto or one of: {', '.join(_DTYPES)}"
        )
    built = None if choice == "reference" else kernels.load()
    if built is None and choice == "c":
        raise EngineError("the C kernels are not built here; install with a compiler, or use auto")
    return _DTYPES[resolved](built, config, cache)


def _float32(built: Kernels | None, config: ModelConfig, cache: UnitCache | None) -> Numerics:
    ops, name = _ops(built, config)
    cpu = torch.backends.cpu.get_cpu_capability()
    parts = (name if built is None else f"{built.name}{name}", "float32", "kv-float32", cpu)
    return Numerics(ops, FloatForm(ops.linear), torch.float32, parts)


def _int8(built: Kernels | None, config: ModelConfig, cache: UnitCache | None) -> Numerics:
    return _quantised(8, ("int8-g64",), built, config, cache)


def _int4(built: Kernels | None, config: ModelConfig, cache: UnitCache | None) -> Numerics:
    others = [depth for depth in config.depths if depth % int4.GROUP]
    if others:
        raise EngineError(
            f"int4 needs depths in multiples of {int4.GROUP}, and this model has {others[0]}; "
            "use int8"
        )
    return _quantised(4, ("int4-g32", "int8-g64"), built, config, cache)


def _quantised(
    bits: Bits,
    names: tuple[str, ...],
    built: Kernels | None,
    config: ModelConfig,
    cache: UnitCache | None,
) -> Numerics:
    """Only where torch computes does the id name what it vectorises for: the kernels' bits are the
    same on every instruction set."""
    ops, name = _ops(built, config)
    quantisation = (*names, "kv-float16")
    cpu = torch.backends.cpu.get_cpu_capability()
    if built is None:
        form = QuantisedForm(bits, EagerMatrix, cache)
        return Numerics(ops, form, torch.float16, (name, *quantisation, cpu))
    form = QuantisedForm(bits, lambda matrix: PackedMatrix(matrix, built), cache, built.encode)
    if name:
        return Numerics(ops, form, torch.float16, (f"{built.build}{name}", *quantisation, cpu))
    return Numerics(ops, form, torch.float16, (built.build, *quantisation), built)


def _ops(built: Kernels | None, config: ModelConfig) -> tuple[Ops, str]:
    """And the name of what the reference does in it."""
    if built is None:
        return ReferenceOps(), "reference"
    if not built.supports(config.heads, config.kv_heads, config.head_dim):
        return KernelsWithout(built), "+reference-attention"
    return built, ""


_DTYPES: Mapping[str, Callable[[Kernels | None, ModelConfig, UnitCache | None], Numerics]] = {
    "int8": _int8,
    "int4": _int4,
    "float32": _float32,
}
