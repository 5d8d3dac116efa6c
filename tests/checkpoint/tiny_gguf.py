"""GGUF files made for tests: small models of every family, with small vocabularies.

Names come from the tensor map of the `gguf` package and rows are permuted as llama.cpp's
converter does, so nothing here is derived from the code under test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).with_name("data")


class Vocab(msgspec.Struct, kw_only=True):
    """The tokenizer.ggml.* part of a file."""

    model: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = []
    scores: list[float] = []
    pre: str | None = None
    settings: dict[str, Any] = {}
    """Further keys under tokenizer.ggml, as they are."""

    def write(self, writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model(self.model)
        if self.pre is not None:
            writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.merges:
            writer.add_token_merges(self.merges)
        if self.scores:
            writer.add_token_scores(self.scores)
        for key, value in self.settings.items():
            add_value(writer, f"tokenizer.ggml.{key}", value)


def small_vocab(kind: str) -> Vocab:
    """The vocabularies kept beside the tests: `bpe` (byte-level) and `spm`."""
    return msgspec.json.decode((DATA / f"{kind}_vocab.json").read_bytes(), type=Vocab)


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)


def write_gguf(
    path: Path,
    arch: str,
    settings: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    vocab: Vocab,
    quantisation: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> Path:
    """`settings` are keys under the architecture, or whole keys when they begin with a slash.

    Matrices are stored in `quantisation`, vectors in float32.
    """
    writer = gguf.GGUFWriter(path, arch)
    for key, value in settings.items():
        add_value(writer, key[1:] if key.startswith("/") else f"{arch}.{key}", value)
    vocab.write(writer)
    for name, values in tensors.items():
        values = np.ascontiguousarray(values, np.float32)
        if values.ndim == 1:
            writer.add_tensor(name, values)
            continue
        packed = gguf.quants.quantize(values, quantisation)
        writer.add_tensor(name, packed, raw_dtype=quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokenizer_gguf(
    path: Path,
    vocab: Vocab,
    settings: Mapping[str, Any] = {},
    arch: str = "llama",
    tensors: Mapping[str, NDArray[Any]] = {},
    width: int = 32,
) -> Path:
    """The smallest Llama that llama.cpp loads, for its tokenizer; with what a test changes."""
    rows = len(vocab.tokens)
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    weights = {f"blk.0.{name}.weight": np.zeros((width, width)) for name in names}
    weights |= {f"blk.0.{name}.weight": np.ones(width) for name in ("attn_norm", "ffn_norm")}
    weights |= {"output_norm.weight": np.ones(width), "token_embd.weight": np.zeros((rows, width))}
    known = {
        "block_count": 1,
        "context_length": 128,
        "embedding_length": width,
        "feed_forward_length": width,
        "attention.head_count": 1,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": width,
    }
    f16 = gguf.GGMLQuantizationType.F16
    return write_gguf(path, arch, {**known, **settings}, {**weights, **tensors}, vocab, f16)


def read_recorded(name: str) -> Any:
    return json.loads((DATA / name).read_text(encoding="utf-8"))
