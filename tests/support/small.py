"""A random model with the real model's tokenizer: served in full, loaded in no time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from paceline.checkpoint.manifest import describe, write_manifest
from tests.support.models import smollm2_dir

SMALL = "small"
LAYERS = 6
WIDTH, HEADS, KV_HEADS, INNER = 64, 4, 2, 128
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def write_small(models: Path, name: str = SMALL) -> Path:
    """The model as a checkpoint `name` in a directory of models; always the same weights."""
    directory = models / name
    directory.mkdir(parents=True)
    real = json.loads((smollm2_dir() / "config.json").read_text())
    sizes = {
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": WIDTH // HEADS,
        "max_position_embeddings": 2048, "tie_word_embeddings": True,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(real | sizes))
    for file in _TOKENIZER:
        if (smollm2_dir() / file).is_file():
            shutil.copy(smollm2_dir() / file, directory / file)
    save_file(_weights(real["vocab_size"]), directory / "model.safetensors")
    write_manifest(directory, describe(directory, name, "made for a test"))
    return directory


def _weights(vocab: int) -> dict[str, np.ndarray]:
    dice = np.random.default_rng(7)
    kv = KV_HEADS * (WIDTH // HEADS)
    shapes = {
        "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (kv, WIDTH),
        "self_attn.v_proj": (kv, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH),
        "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH),
        "mlp.down_proj": (WIDTH, INNER),
    }  # fmt: skip
    made = {
        "model.embed_tokens.weight": dice.normal(0, 0.15, (vocab, WIDTH)),
        "model.norm.weight": np.ones(WIDTH),
    }
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            made[f"model.layers.{layer}.{name}.weight"] = dice.normal(0, 0.15, shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            made[f"model.layers.{layer}.{name}.weight"] = np.ones(WIDTH)
    return {name: tensor.astype(np.float32) for name, tensor in made.items()}
