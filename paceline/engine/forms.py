"""From a checkpoint's matrices to those that a stage multiplies by, one class for each dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from paceline.engine.matrices import FloatLinear, FloatMatrix, Matrix
from paceline.engine.quantised import QUAD, STRIP, QuantisedMatrix, pack, packed_depth, quantise
from paceline.engine.stored import Stored


class Form(Protocol):
    def matrices(self, unit: str, stored: Mapping[str, Stored]) -> dict[str, Matrix]:
        """What is loaded together ("layer 3", "embed"), by name. Raises CheckpointError."""


class FloatForm:
    """float32."""

    def __init__(self, linear: FloatLinear) -> None:
        self._linear = linear

    def matrices(self, unit: str, stored: Mapping[str, Stored]) -> dict[str, Matrix]:
        return {name: FloatMatrix(one.whole(), self._linear) for name, one in stored.items()}


class Int8Form:
    """int8 with a scale per output column."""

    def __init__(self, wrap: Callable[[QuantisedMatrix], Matrix]) -> None:
        self._wrap = wrap

    def matrices(self, unit: str, stored: Mapping[str, Stored]) -> dict[str, Matrix]:
        return {name: self._wrap(_quantised(one)) for name, one in stored.items()}


def _quantised(stored: Stored) -> QuantisedMatrix:
    columns, depth = stored.shape
    strips = -(-columns // STRIP)
    packed = torch.empty(strips, packed_depth(depth) // QUAD, STRIP, QUAD, dtype=torch.uint8)
    scales = torch.empty(columns)
    for start, block in stored.blocks(STRIP):
        values, scales[start : start + len(block)] = quantise(block)
        strip = start // STRIP
        packed[strip : strip - (-len(block) // STRIP)] = pack(values)
    return QuantisedMatrix(packed, scales, depth)
