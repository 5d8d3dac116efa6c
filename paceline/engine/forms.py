"""From a checkpoint's matrices to those that a stage multiplies by, one class for each dtype."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from paceline.engine.cache import UnitCache
from paceline.engine.image import Arena, Image
from paceline.engine.matrices import FloatLinear, FloatMatrix, Matrix
from paceline.engine.quantised import STRIP, QuantisedMatrix, pack, quantise
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


class Int8Form:
    """int8 with a scale per output column."""

    def __init__(self, wrap: Callable[[QuantisedMatrix], Matrix], cache: UnitCache | None) -> None:
        self._wrap = wrap
        self._cache = cache
        self._arena = Arena()
        self._quantising = threading.Lock()
        """Torch shares one unit's work out to all cores, and its working memory is held once."""

    def matrices(self, unit: str, stored: Mapping[str, Stored]) -> dict[str, Matrix]:
        image = Image({name: one.shape for name, one in stored.items()})
        memory = self._arena.take(image.nbytes)
        made = image.matrices(memory)
        if self._cache is None or not self._cache.read(unit, memory):
            with self._quantising:
                for name, one in stored.items():
                    _quantise_into(made[name], one)
            if self._cache is not None:
                self._cache.write(unit, memory)
        return {name: self._wrap(matrix) for name, matrix in made.items()}


def _quantise_into(matrix: QuantisedMatrix, stored: Stored) -> None:
    for start, block in stored.blocks(STRIP):
        values, matrix.scales[start : start + len(block)] = quantise(block)
        strip = start // STRIP
        matrix.packed[strip : strip - (-len(block) // STRIP)] = pack(values)
