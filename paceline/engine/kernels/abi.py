"""The C library's functions and structs, as ctypes sees them."""

from __future__ import annotations

import ctypes

address, size, isa = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int

ISA_NUMBERS = {"portable": 0, "avx2": 1, "avxvnni": 2, "avx512": 3, "avx512vnni": 4, "amx": 5}
"""`levels` of csrc/library.c."""

FLOAT_ISAS = {"avxvnni": "avx2", "avx512vnni": "avx512", "amx": "avx512"}
"""Whose float kernels a level has, where not its own."""

NORMS = {"rms": 0, "layer": 1}
ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2}


class AttentionCall(ctypes.Structure):
    """`attention_call` of csrc/kernels.h."""

    _fields_ = [
        *((name, address) for name in ("q", "k", "v", "row_pos", "row_table", "tables", "out")),
        *((name, size) for name in ("rows", "heads", "kv_heads", "head_dim", "q_stride")),
        *((name, size) for name in ("pages", "spans", "table_pages", "window")),
        *((name, ctypes.c_float) for name in ("scale", "softcap")),
        ("half", ctypes.c_int32),
    ]


class NormWeights(ctypes.Structure):
    """`norm_weights` of csrc/kernels.h."""

    _fields_ = [
        ("weight", address),
        ("bias", address),
        ("eps", ctypes.c_float),
        ("kind", ctypes.c_int32),
    ]


class MlpMiddle(ctypes.Structure):
    """`mlp_middle` of csrc/kernels.h."""

    _fields_ = [("width", size), ("kind", ctypes.c_int32), ("gated", ctypes.c_int32)]


class Matrix(ctypes.Structure):
    """`quantised_matrix` of csrc/quantised.h."""

    _fields_ = [
        *((name, address) for name in ("packed", "scales", "bias")),
        *((name, size) for name in ("columns", "depth", "bits")),
    ]


class Int4Codes(ctypes.Structure):
    """`int4_codes` of csrc/quantised.h."""

    _fields_ = [(name, address) for name in ("codes", "steps", "lows")]


class LayerShape(ctypes.Structure):
    """`layer_shape` of csrc/layer.h."""

    _fields_ = [
        *((name, size) for name in ("width", "heads", "kv_heads", "head_dim")),
        ("mlp", MlpMiddle),
    ]


class LayerWeights(ctypes.Structure):
    """`layer_weights` of csrc/layer.h."""

    _fields_ = [
        *((name, NormWeights) for name in ("attn_norm", "mlp_norm", "q_norm", "k_norm")),
        *((name, Matrix) for name in ("qkv", "o", "up", "down")),
        *((name, address) for name in ("cos", "sin", "keys", "values")),
        ("window", size),
        *((name, ctypes.c_float) for name in ("query_scale", "softcap")),
    ]


class StepRows(ctypes.Structure):
    """`step_rows` of csrc/layer.h."""

    _fields_ = [
        *((name, address) for name in ("row_pos", "row_table", "tables")),
        *((name, size) for name in ("rows", "pages", "spans", "table_pages")),
    ]


class HeadWeights(ctypes.Structure):
    """`head_weights` of csrc/layer.h."""

    _fields_ = [("norm", NormWeights), ("head", Matrix)]


class DrawRow(ctypes.Structure):
    """`draw_row` of csrc/draw.h."""

    _fields_ = [
        ("logits", address),
        *((name, ctypes.c_double) for name in ("u", "top_p")),
        *((name, ctypes.c_float) for name in ("temperature", "min_p")),
        *((name, size) for name in ("top_k", "token")),
    ]


_SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "paceline_build": (ctypes.c_char_p, []),
    "paceline_has_isa": (ctypes.c_int, [isa]),
    "paceline_set_threads": (None, [ctypes.c_int]),
    "paceline_threads": (ctypes.c_int, []),
    "paceline_has_many": (ctypes.c_int, [isa]),
    "paceline_set_many_rows": (None, [isa, size]),
    "paceline_linear": (None, [isa, *[address] * 4, *[size] * 3]),
    "paceline_attention": (ctypes.c_int, [isa, address, address]),
    "paceline_quantised_linear": (ctypes.c_int, [isa, address, size, size, address, address]),
    "paceline_norm": (ctypes.c_int, [isa, address, address, size, size, address]),
    "paceline_activate": (ctypes.c_int, [isa, address, address, size, address]),
    "paceline_table": (ctypes.c_int, [isa, address, size, address, size, address]),
    "paceline_encode": (ctypes.c_int, [isa, address, size, address]),
    "paceline_finite": (ctypes.c_int, [isa, address, size, size, address]),
    "paceline_layers": (ctypes.c_int, [isa, address, address, size, *[address] * 3]),
    "paceline_draw": (ctypes.c_int, [isa, address, size, size]),
    "paceline_head": (ctypes.c_int, [isa, size, address, address, size, address]),
}


def declare(library: ctypes.CDLL) -> None:
    """Declare the library's functions. Raises AttributeError if one is missing."""
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
