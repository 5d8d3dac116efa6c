"""Small random `transformers` models of every family, and the GGUF files made of them.

What llama.cpp's converter does to a model is written down here once more, from its side: the
names of the `gguf` package's map, rope pairs side by side for arch llama, Conv1D turned round.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from tests.checkpoint.tiny_gguf import small_vocab, write_gguf

VOCAB = msgspec.structs.replace(small_vocab("bpe"), pre="qwen2")
_COMMON = {
    "vocab_size": len(VOCAB.tokens),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": False}, {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}, {}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}, {}),
    "llama with wide heads": ("llama", {"head_dim": 32}, {"attention.key_length": 32}),
    "llama with llama3 rope": ("llama", {"rope_parameters": _LLAMA3, "head_dim": 64}, {
        "rope.freq_base": 500000.0, "attention.key_length": 64,
    }),
    "llama with linear rope": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "mistral": (
        "mistral", {"sliding_window": 8, "rope_parameters": {"rope_theta": 1e6}},
        {"attention.sliding_window": 8, "rope.freq_base": 1e6},
    ),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}, {}),
    "qwen2 with yarn rope": (
        "qwen2",
        {"rope_parameters": {
            "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
            "original_max_position_embeddings": 128,
        }},
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
         "rope.scaling.original_context_length": 128},
    ),
    "qwen3": ("qwen3", {"head_dim": 32}, {"attention.key_length": 32}),
    "gpt2": ("gpt2", {}, {}),
}  # fmt: skip
"""By name: model type, settings of the `transformers` config, settings of the GGUF."""


def tiny_model(case: str) -> transformers.PreTrainedModel:
    """Float32, of weights that are float16 numbers."""
    model_type, settings, _ = CASES[case]
    torch.manual_seed(7)
    if model_type == "gpt2":
        config: Any = transformers.GPT2Config(
            vocab_size=len(VOCAB.tokens),
            n_positions=512,
            n_embd=64,
            n_layer=2,
            n_head=4,
            n_inner=96,
        )
    else:
        config = transformers.AutoConfig.for_model(model_type, **_COMMON, **settings)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
            weight.copy_(weight.half())
    return model


def model_gguf(
    path: Path,
    case: str,
    model: transformers.PreTrainedModel,
    quantisation: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F16,
) -> Path:
    model_type, _, extra = CASES[case]
    arch = "llama" if model_type == "mistral" else model_type
    arch_id = {name: id_ for id_, name in gguf.MODEL_ARCH_NAMES.items()}[arch]
    names = gguf.get_tensor_name_map(arch_id, 2)
    tensors: dict[str, NDArray[Any]] = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        renamed = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert renamed is not None, name
        tensors[renamed] = _as_llama_cpp(arch, model.config, name, value.numpy())
    if case == "llama with llama3 rope":
        tensors["rope_freqs.weight"] = _rope_factors(model)
    config = model.config
    settings = {
        "block_count": 2,
        "context_length": 512,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", 4),
        **(
            {"attention.layer_norm_epsilon": config.layer_norm_epsilon}
            if arch == "gpt2"
            else {"attention.layer_norm_rms_epsilon": config.rms_norm_eps}
        ),
        **extra,
    }
    return write_gguf(path, arch, settings, tensors, VOCAB, quantisation)


def _as_llama_cpp(arch: str, config: Any, name: str, value: NDArray[Any]) -> NDArray[Any]:
    if arch == "llama" and ".q_proj." in name:
        return _pairs_side_by_side(value, config.num_attention_heads)
    if arch == "llama" and ".k_proj." in name:
        return _pairs_side_by_side(value, config.num_key_value_heads)
    if arch == "gpt2" and name.endswith(("attn.weight", "proj.weight", "fc.weight")):
        return value.T
    return value


def _pairs_side_by_side(value: NDArray[Any], heads: int) -> NDArray[Any]:
    """Row r of the first half of a head is followed by row r of its second half."""
    out = np.empty_like(value)
    size = len(value) // heads
    for head in range(heads):
        rows = value[head * size : (head + 1) * size]
        out[head * size : (head + 1) * size : 2] = rows[: size // 2]
        out[head * size + 1 : (head + 1) * size : 2] = rows[size // 2 :]
    return out


def _rope_factors(model: Any) -> NDArray[Any]:
    """What the frequencies of the model are divided by, as seen in the model itself."""
    scaled = model.model.rotary_emb.inv_freq.numpy()
    head_dim = 2 * len(scaled)
    plain = 500000.0 ** -(np.arange(0, head_dim, 2) / head_dim)
    return plain / scaled
