"""From a checkpoint's matrices to those that a stage multiplies by, one class for each dtype."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor

from paceline.engine import int4
from paceline.engine.cache import UnitCache
from paceline.engine.encode import encode
from paceline.engine.image import Arena, Image
from paceline.engine.int8 import STRIP
from paceline.engine.matrices import FloatLinear, FloatMatrix, Matrix
from paceline.engine.quantised import Bits, QuantisedMatrix, quantise
from paceline.engine.stored import Stored


class Form(Protocol):
    def matrices(self, unit: str, stored: Mapping[str, Stored]) -> dict[str, Matrix]:
        """What is loaded together ("layer-3", "embed"), by name, on any thread. Raises
        CheckpointError."""


class FloatForm:
    """float32."""

    def __init__(self, linear: FloatLinear) -> None:
        self._linear = linear

    def matrices(self, unit: str, stored: Mapping[str, Stored]) -> dict[str, Matrix]:
        return {name: FloatMatrix(one.whole(), self._linear) for name, one in stored.items()}


TABLES = ("embed", "head")
"""Units that are in int8 always. In int4, that of SmolLM2 costs 7 % of perplexity by itself."""


class QuantisedForm:
    """int8 or int4 with a scale per output column."""

    def __init__(
        self,
        bits: Bits,
        wrap: Callable[[QuantisedMatrix], Matrix],
        cache: UnitCache | None,
        encode: Callable[[Tensor], int4.Codes] = encode,
    ) -> None:
        self._bits = bits
        self._encode = encode
        self._wrap = wrap
        self._cache = cache
        self._arena = Arena()
        self._quantising = threading.Lock()
        """Torch shares one unit's work out to all cores, and its working memory is held once."""

    def matrices(self, unit: str, stored: Mapping[str, Stored]) -> dict[str, Matrix]:
        bits = 8 if unit in TABLES else self._bits
        kept = unit if bits == 8 else f"{unit}.int{bits}"
        image = Image({name: one.shape for name, one in stored.items()}, bits)
        memory = self._arena.take(image.nbytes)
        made = image.matrices(memory)
        if self._cache is None or not self._cache.read(kept, memory):
            with self._quantising:
                for name, one in stored.items():
                    self._quantise_into(made[name], one)
            if self._cache is not None:
                self._cache.write(kept, memory)
        return {name: self._wrap(matrix) for name, matrix in made.items()}

    def _quantise_into(self, matrix: QuantisedMatrix, stored: Stored) -> None:
        for start, block in stored.blocks(STRIP):
            packed, scales = quantise(block, matrix.bits, self._encode)
            strip = start // STRIP
            matrix.packed[strip : strip + len(packed)] = packed
            matrix.scales[start : start + len(block)] = scales
