"""Tiny random checkpoints of every supported family, made with `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

LAYERS = 7
VOCAB = 97

_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "attn_implementation": "eager",
}
_WIDE = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 8}
"""Depths that int4 can have."""

_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def _llama(**options: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**_SIZES | options))


def _qwen2(**options: Any) -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**_SIZES | options))


def _rope(**settings: Any) -> PreTrainedModel:
    return _llama(rope_parameters={"rope_theta": 500.0} | settings)


def _gpt2(**options: Any) -> PreTrainedModel:
    sizes = {"vocab_size": VOCAB, "n_embd": 48, "n_layer": LAYERS, "n_head": 4}
    sizes |= {"n_positions": 256, "attn_implementation": "eager"}
    return GPT2LMHeadModel(GPT2Config(**sizes | options))


CASES = {
    "llama": lambda: _llama(),
    "llama_tied": lambda: _llama(tie_word_embeddings=True, num_key_value_heads=6),
    "llama_biases": lambda: _llama(attention_bias=True, mlp_bias=True, num_key_value_heads=1),
    "llama_groups": lambda: _llama(intermediate_size=192, mlp_bias=True),
    "llama_int4": lambda: _llama(**_WIDE, attention_bias=True, mlp_bias=True),
    "gpt2_int4": lambda: _gpt2(n_embd=64, n_inner=192),
    "gpt2_groups": lambda: _gpt2(n_inner=128),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_SIZES, sliding_window=None)),
    "mistral_window": lambda: MistralForCausalLM(MistralConfig(**_SIZES, sliding_window=70)),
    "mistral_short_window": lambda: MistralForCausalLM(MistralConfig(**_SIZES, sliding_window=5)),
    "qwen2": lambda: _qwen2(tie_word_embeddings=True),
    "qwen2_window": lambda: _qwen2(use_sliding_window=True, sliding_window=40, max_window_layers=3),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SIZES, head_dim=16)),
    "qwen3_biases": lambda: Qwen3ForCausalLM(
        Qwen3Config(**_SIZES, head_dim=32, attention_bias=True, tie_word_embeddings=True)
    ),
    "heads_of_12": lambda: _llama(num_attention_heads=4, head_dim=12),
    "gpt2": lambda: _gpt2(),
    "gpt2_untied": lambda: _gpt2(
        tie_word_embeddings=False, n_head=3, n_inner=60, scale_attn_by_inverse_layer_idx=True
    ),
    "gpt2_gelu": lambda: _gpt2(activation_function="gelu"),
    "rope_linear": lambda: _rope(rope_type="linear", factor=2.5),
    "rope_llama3": lambda: _rope(
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=64,
    ),
    "rope_yarn": lambda: _rope(**_YARN),
    "rope_yarn_options": lambda: _rope(
        **_YARN, beta_fast=16.0, beta_slow=2.0, mscale=1.2, mscale_all_dim=0.7, truncate=False
    ),
    "rope_yarn_attention": lambda: _rope(**_YARN, attention_factor=1.3),
}


def make(case: str, directory: Path) -> PreTrainedModel:
    """The model of a case, saved to the directory; norms and biases are random too."""
    torch.manual_seed(7)
    model = CASES[case]().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "norm" in name or "ln_" in name
            scale = 0.2 if parameter.dim() == 1 else 0.15
            parameter.normal_(1.0 if norm and name.endswith("weight") else 0.0, scale)
    model.save_pretrained(directory)
    return model
