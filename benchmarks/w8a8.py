"""The checkpoint in int8 for vLLM: weights per channel, activations per token as they come.

In the compressed-tensors format ("int-quantized"), which vLLM's CPU backend multiplies in int8.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PROJECTIONS = tuple(f"{name}_proj.weight" for name in ("q", "k", "v", "o", "gate", "up", "down"))


def make(checkpoint: Path, target: Path) -> Path:
    """Writes it once; `target` is a directory of ours."""
    if target.exists():
        return target
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(checkpoint / name, partial / name)
    config = json.loads((checkpoint / "config.json").read_text())
    (partial / "config.json").write_text(json.dumps(config | {"quantization_config": _scheme()}))
    tensors: dict[str, Tensor] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            tensors |= _quantised(name, tensor) if name.endswith(PROJECTIONS) else {name: tensor}
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    return partial.rename(target)


def _quantised(name: str, weight: Tensor) -> dict[str, Tensor]:
    """weight: [out, in]."""
    scale = weight.float().abs().amax(1, keepdim=True) / 127
    values = (weight.float() / scale).round().clamp(-127, 127)
    return {name: values.to(torch.int8), f"{name}_scale": scale}


def _scheme() -> dict[str, object]:
    common = {"num_bits": 8, "type": "int", "symmetric": True}
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": common | {"strategy": "channel", "dynamic": False},
                "input_activations": common | {"strategy": "token", "dynamic": True},
            }
        },
    }
