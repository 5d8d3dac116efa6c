"""The config.json of a GGUF file: its metadata under the names that Hugging Face uses."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from gguf.quants import dequantize
from numpy.typing import NDArray

from paceline.checkpoint.gguf_file import GgufFile

T = TypeVar("T")

ROPE_FREQS = "rope_freqs.weight"
ROPE_LONG = "rope_factors_long.weight"
ROPE_SHORT = "rope_factors_short.weight"
ROPE_TENSORS = frozenset({ROPE_FREQS, ROPE_LONG, ROPE_SHORT})
"""Tensors that are configuration: they go to config.json, not to the weights."""

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
SUPPORTED = ("llama", "qwen2", "qwen3", "gpt2")
"""Values of general.architecture; Mistral models travel as llama."""

_LLAMA3_CONTEXT = 8192
_LLAMA3_LOW, _LLAMA3_HIGH = 1.0, 4.0


class Metadata:
    """Typed access to the metadata of one file; a missing or odd value is a CheckpointError."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        parts = self.find("split.count", int) or 1
        if parts > 1:
            raise file.error(f"one of {parts} parts; join them with llama-gguf-split --merge first")
        self.arch = self.get("general.architecture", str)
        if self.arch not in SUPPORTED:
            raise file.error(
                f"architecture {self.arch!r} is not supported; {', '.join(SUPPORTED)} are"
            )

    def find(self, key: str, kind: type[T]) -> T | None:
        """None if the key is absent. In keys, `{}` stands for the architecture."""
        key = key.format(getattr(self, "arch", ""))
        value = self.file.metadata.get(key)
        if kind is float and isinstance(value, int):
            value = float(value)
        if value is not None and not isinstance(value, kind):
            raise self.file.error(f"metadata {key} is {value!r:.40}, not {kind.__name__}")
        return value

    def get(self, key: str, kind: type[T]) -> T:
        value = self.find(key, kind)
        if value is None:
            raise self.file.error(f"metadata {key.format(getattr(self, 'arch', ''))} is missing")
        return value

    def size(self, key: str) -> int:
        """A count that must be positive."""
        value = self.get(key, int)
        if value <= 0:
            raise self.file.error(f"metadata {key.format(self.arch)} is {value}")
        return value


def hf_config(metadata: Metadata) -> dict[str, Any]:
    """config.json without token ids, as `transformers` would load it."""
    config = _gpt2_config(metadata) if metadata.arch == "gpt2" else _llama_config(metadata)
    model_type = config["model_type"]
    tied = is_tied(metadata.file)
    return {
        "architectures": [_ARCHITECTURES[model_type]],
        **config,
        "tie_word_embeddings": tied,
        "dtype": "float16",
    }


def is_tied(file: GgufFile) -> bool:
    """No head of its own, or one that repeats the embedding byte for byte."""
    head, embedding = file.tensors.get("output.weight"), file.tensors.get("token_embd.weight")
    if head is None or embedding is None:
        return True
    return (
        head.quantisation == embedding.quantisation
        and head.shape == embedding.shape
        and bool(np.array_equal(file.raw(head), file.raw(embedding)))
    )


def _vocab_size(metadata: Metadata) -> int:
    embedding = metadata.file.tensors.get("token_embd.weight")
    if embedding is None:
        raise metadata.file.error("tensor 'token_embd.weight' is missing")
    return embedding.shape[0]


def _gpt2_config(metadata: Metadata) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "vocab_size": _vocab_size(metadata),
        "n_positions": metadata.size("{}.context_length"),
        "n_embd": metadata.size("{}.embedding_length"),
        "n_layer": metadata.size("{}.block_count"),
        "n_head": metadata.size("{}.attention.head_count"),
        "n_inner": metadata.size("{}.feed_forward_length"),
        "activation_function": "gelu_new",
        "layer_norm_epsilon": metadata.get("{}.attention.layer_norm_epsilon", float),
    }


def _llama_config(metadata: Metadata) -> dict[str, Any]:
    _refuse_experts(metadata)
    width = metadata.size("{}.embedding_length")
    heads = metadata.size("{}.attention.head_count")
    head_dim = metadata.find("{}.attention.key_length", int) or width // heads
    window = metadata.find("{}.attention.sliding_window", int)
    config: dict[str, Any] = {
        "model_type": _model_type(metadata, window),
        "vocab_size": _vocab_size(metadata),
        "hidden_size": width,
        "intermediate_size": metadata.size("{}.feed_forward_length"),
        "num_hidden_layers": metadata.size("{}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.find("{}.attention.head_count_kv", int) or heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": metadata.size("{}.context_length"),
        "rms_norm_eps": _short(metadata.get("{}.attention.layer_norm_rms_epsilon", float)),
        "rope_theta": _short(metadata.find("{}.rope.freq_base", float) or 10000.0),
        "rope_scaling": rope_scaling(metadata, head_dim),
    }
    rotary = metadata.find("{}.rope.dimension_count", int) or head_dim
    if rotary != head_dim:
        raise metadata.file.error(f"rope over {rotary} of {head_dim} dimensions is not supported")
    return config | _window(config["model_type"], window) | _biases(metadata, config["model_type"])


def _refuse_experts(metadata: Metadata) -> None:
    experts = metadata.find("{}.expert_count", int)
    if experts:
        raise metadata.file.error(f"mixtures of experts ({experts} here) are not supported")


def _model_type(metadata: Metadata, window: int | None) -> str:
    """GGUF has no architecture of its own for Mistral, whose mathematics are Llama's."""
    if metadata.arch != "llama":
        return metadata.arch
    names = [metadata.find(f"general.{key}", str) or "" for key in ("basename", "name")]
    is_mistral = window or any("mistral" in name.lower() for name in names)
    return "mistral" if is_mistral else "llama"


def _window(model_type: str, window: int | None) -> dict[str, Any]:
    if model_type == "mistral":
        return {"sliding_window": window}
    if model_type in ("qwen2", "qwen3"):
        return {
            "sliding_window": window,
            "use_sliding_window": bool(window),
            "max_window_layers": 0,
        }
    return {}


def _biases(metadata: Metadata, model_type: str) -> dict[str, Any]:
    """Families with an option say what the file has; the others fix it by definition."""
    tensors = metadata.file.tensors
    if model_type == "llama":
        return {
            "attention_bias": "blk.0.attn_q.bias" in tensors,
            "mlp_bias": "blk.0.ffn_up.bias" in tensors,
        }
    if model_type == "qwen3":
        return {"attention_bias": "blk.0.attn_q.bias" in tensors}
    return {}


def rope_scaling(metadata: Metadata, head_dim: int) -> dict[str, Any] | None:
    """`rope_scaling` as Hugging Face writes it.

    Frequency factors that fit none of its kinds are kept as
    `{"rope_type": "factors", "factors": [head_dim / 2 numbers]}`: dimension i turns at
    theta^(-2i / head_dim) / factors[i].
    """
    factors = _factors(metadata.file, ROPE_FREQS, head_dim)
    if factors is not None and not np.all(factors == 1.0):
        return _as_llama3(metadata, factors) or {
            "rope_type": "factors",
            "factors": factors.tolist(),
        }
    long, short = (_factors(metadata.file, name, head_dim) for name in (ROPE_LONG, ROPE_SHORT))
    if long is not None and short is not None:
        return {
            "rope_type": "longrope",
            "long_factor": long.tolist(),
            "short_factor": short.tolist(),
            **_optional(
                original_max_position_embeddings=_original_context(metadata),
                attention_factor=metadata.find("{}.rope.scaling.attn_factor", float),
            ),
        }
    return _named_scaling(metadata)


def _named_scaling(metadata: Metadata) -> dict[str, Any] | None:
    kind = metadata.find("{}.rope.scaling.type", str) or "none"
    factor = metadata.find("{}.rope.scaling.factor", float)
    if factor is None:
        factor = metadata.find("{}.rope.scale_linear", float)
        kind = "linear" if factor and kind == "none" else kind
    if kind == "none" or factor is None or factor == 1.0:
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": _short(factor)}
    if kind == "yarn":
        return {
            "rope_type": "yarn",
            "factor": _short(factor),
            "original_max_position_embeddings": _original_context(metadata)
            or metadata.size("{}.context_length"),
            **_optional(
                beta_fast=metadata.find("{}.rope.scaling.yarn_beta_fast", float),
                beta_slow=metadata.find("{}.rope.scaling.yarn_beta_slow", float),
            ),
        }
    raise metadata.file.error(f"rope scaling {kind!r} is not supported")


def _as_llama3(metadata: Metadata, factors: NDArray[np.float32]) -> dict[str, Any] | None:
    """The llama3 parameters that give these factors, if there are any."""
    theta = metadata.find("{}.rope.freq_base", float) or 10000.0
    factor = round(float(factors.max()), 4)
    contexts = {_LLAMA3_CONTEXT, _original_context(metadata) or _LLAMA3_CONTEXT}
    for context in sorted(contexts):
        expected = llama3_factors(theta, len(factors), factor, context)
        if np.allclose(expected, factors, rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": _LLAMA3_LOW,
                "high_freq_factor": _LLAMA3_HIGH,
                "original_max_position_embeddings": context,
            }
    return None


def llama3_factors(theta: float, pairs: int, factor: float, context: int) -> NDArray[np.float64]:
    """What Llama 3.1 divides each rope frequency by; shape (pairs,)."""
    wavelengths = 2 * math.pi * theta ** (np.arange(pairs) / pairs)
    smooth = (context / wavelengths - _LLAMA3_LOW) / (_LLAMA3_HIGH - _LLAMA3_LOW)
    between = 1 / ((1 - smooth) / factor + smooth)
    kept = wavelengths < context / _LLAMA3_HIGH
    stretched = wavelengths > context / _LLAMA3_LOW
    return np.where(kept, 1.0, np.where(stretched, factor, between))


def _factors(file: GgufFile, name: str, head_dim: int) -> NDArray[np.float32] | None:
    tensor = file.tensors.get(name)
    if tensor is None:
        return None
    if tensor.shape != (head_dim // 2,):
        raise file.error(f"tensor {name!r} has shape {tensor.shape}, not ({head_dim // 2},)")
    return np.array(dequantize(file.raw(tensor), tensor.quantisation), np.float32)


def _original_context(metadata: Metadata) -> int | None:
    return metadata.find("{}.rope.scaling.original_context_length", int)


def _optional(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _short(value: float) -> float:
    """The decimal number that was meant by a float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))
