"""A checkpoint of DialoGPT-medium's shape and layout, with random weights: 24 layers, width 1024,
0.863 GB. Its own files hold float16, a causal mask per layer and the tied head a second time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers.pre_tokenizers import ByteLevel

LAYERS, WIDTH, VOCAB, POSITIONS = 24, 1024, 50257, 1024
END = "<|endoftext|>"

CONFIG = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "n_layer": LAYERS,
    "n_embd": WIDTH,
    "n_head": 16,
    "n_ctx": POSITIONS,
    "n_positions": POSITIONS,
    "vocab_size": VOCAB,
    "layer_norm_epsilon": 1e-05,
    "bos_token_id": VOCAB - 1,
    "eos_token_id": VOCAB - 1,
}


def dialogpt(directory: Path, seed: int = 7) -> Path:
    """Writes it into `directory`, which is made."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    _tokenizer(directory)
    save_file(_weights(seed), directory / "model.safetensors")
    return directory


def _weights(seed: int) -> dict[str, NDArray[np.float16]]:
    some = (np.random.default_rng(seed).standard_normal(1 << 20) * 0.02).astype(np.float16)

    def random(*shape: int) -> NDArray[np.float16]:
        start = int(np.prod(shape)) % 7919  # so that no two tensors begin alike
        return np.resize(np.roll(some, start), shape)

    def norm(name: str) -> dict[str, NDArray[np.float16]]:
        return {
            f"{name}.weight": np.ones(WIDTH, np.float16),
            f"{name}.bias": np.zeros(WIDTH, np.float16),
        }

    def linear(name: str, inputs: int, outputs: int) -> dict[str, NDArray[np.float16]]:
        return {f"{name}.weight": random(inputs, outputs), f"{name}.bias": random(outputs)}

    mask = np.tril(np.ones((1, 1, POSITIONS, POSITIONS), np.float16))
    table = random(VOCAB, WIDTH)
    weights = {
        "transformer.wte.weight": table,
        "transformer.wpe.weight": random(POSITIONS, WIDTH),
        "lm_head.weight": table,
        **norm("transformer.ln_f"),
    }
    for layer in range(LAYERS):
        at = f"transformer.h.{layer}"
        weights |= norm(f"{at}.ln_1") | norm(f"{at}.ln_2")
        weights |= linear(f"{at}.attn.c_attn", WIDTH, 3 * WIDTH)
        weights |= linear(f"{at}.attn.c_proj", WIDTH, WIDTH)
        weights |= linear(f"{at}.mlp.c_fc", WIDTH, 4 * WIDTH)
        weights |= linear(f"{at}.mlp.c_proj", 4 * WIDTH, WIDTH)
        weights[f"{at}.attn.bias"] = mask
    return weights


def _tokenizer(directory: Path) -> None:
    """Byte-level BPE with as many merges as fill the vocabulary: every letter with every other."""
    letters = sorted(ByteLevel.alphabet())
    pairs = [(a, b) for a in letters for b in letters][: VOCAB - 1 - len(letters)]
    tokens = [*letters, *(a + b for a, b in pairs), END]
    (directory / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    merges = "\n".join(f"{a} {b}" for a, b in pairs)
    (directory / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "model_max_length": POSITIONS})
    )
