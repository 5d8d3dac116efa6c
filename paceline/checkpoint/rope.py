"""Rotary position settings as config.json states them, one struct per `rope_type`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

_DEFAULT_THETA = 10000.0
_ORIGINAL_CONTEXT = "original_max_position_embeddings"


class Rope(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="rope_type"
):
    """The base of all. Unknown options are refused: they would change every token unseen."""

    rope_theta: float = _DEFAULT_THETA


class DefaultRope(Rope, frozen=True, tag="default"):
    """No scaling."""


class LinearRope(Rope, frozen=True, tag="linear"):
    """All frequencies divided by one factor."""

    factor: float


class FactorsRope(Rope, frozen=True, tag="factors"):
    """Each frequency divided by its own factor: what a GGUF's `rope_freqs.weight` holds."""

    factors: tuple[float, ...]


class Llama3Rope(Rope, frozen=True, tag="llama3"):
    """Low frequencies divided by the factor, high ones kept, a ramp between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


class YarnRope(Rope, frozen=True, tag="yarn"):
    """Interpolation and extrapolation mixed by frequency, attention scaled (arXiv 2309.00071)."""

    original_max_position_embeddings: int
    factor: float | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


AnyRope = DefaultRope | LinearRope | FactorsRope | Llama3Rope | YarnRope


def parse_rope(raw: Mapping[str, Any], max_context: int) -> AnyRope:
    """Rope settings of a config.json, old style (`rope_theta`, `rope_scaling`) or new
    (`rope_parameters`). Raises ValueError on a type or an option that is not honoured.
    """
    try:
        return _parse(raw, max_context)
    except msgspec.ValidationError as error:
        raise ValueError(f"rope settings: {error}") from error


def _parse(raw: Mapping[str, Any], max_context: int) -> AnyRope:
    given = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    given = msgspec.convert(given, dict[str, Any])
    settings = {key: value for key, value in given.items() if key != "type"}
    settings.setdefault("rope_type", given.get("type", "default"))
    settings.setdefault("rope_theta", raw.get("rope_theta", _DEFAULT_THETA))
    if settings.get("partial_rotary_factor") == 1.0:
        del settings["partial_rotary_factor"]
    if settings["rope_type"] in ("llama3", "yarn"):
        settings.setdefault(_ORIGINAL_CONTEXT, max_context)
    rope: AnyRope = msgspec.convert(settings, AnyRope)
    if isinstance(rope, YarnRope) and rope.factor is None:
        factor = max_context / rope.original_max_position_embeddings
        rope = msgspec.structs.replace(rope, factor=factor)
    return rope
