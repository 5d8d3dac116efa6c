"""From bytes on disk to float32 in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from paceline.checkpoint.facts import Checkpoint, shard_bytes
from paceline.engine import weights
from paceline.engine.stage import Stage
from paceline.types.errors import CheckpointError
from paceline.types.model import Shard
from tests.engine.tiny import LAYERS, make

WHOLE = Shard(start=0, stop=LAYERS, layers=LAYERS)


def _bytes_read() -> int:
    fields = Path("/proc/self/io").read_text().split()
    return int(fields[fields.index("rchar:") + 1])


def _loaded(directory: Path) -> weights.Weights:
    with Checkpoint(directory) as checkpoint:
        return weights.load_weights(checkpoint, WHOLE, lambda done, total: None)


@pytest.mark.parametrize("block_bytes", [1, 1000, 1 << 30])
def test_parts_are_stacked_and_conv1d_transposed(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(weights, "_BLOCK_BYTES", block_bytes)
    state = make("llama_biases", tmp_path / "llama").state_dict()
    layer = _loaded(tmp_path / "llama").layers[3]
    attention = "model.layers.3.self_attn"
    for kind, found in (("weight", layer.qkv.weight), ("bias", layer.qkv.bias)):
        parts = [state[f"{attention}.{name}_proj.{kind}"] for name in "qkv"]
        assert torch.equal(found, torch.cat(parts))

    state = make("gpt2", tmp_path / "gpt2").state_dict()
    layer = _loaded(tmp_path / "gpt2").layers[3]
    assert torch.equal(layer.qkv.weight, state["transformer.h.3.attn.c_attn.weight"].t())
    assert torch.equal(layer.down.weight, state["transformer.h.3.mlp.c_proj.weight"].t())
    assert layer.down.weight.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_exactly(tmp_path, dtype):
    make("llama", tmp_path).to(dtype).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    found = _loaded(tmp_path)
    assert found.embed is not None
    assert found.embed.dtype == torch.float32
    assert torch.equal(found.embed, stored["model.embed_tokens.weight"].float())
    down = stored["model.layers.6.mlp.down_proj.weight"]
    assert torch.equal(found.layers[6].down.weight, down.float())


def test_other_dtypes_are_refused(tmp_path):
    make("llama", tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].double()
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is F64; weights can be F32"):
        _loaded(tmp_path)


def test_a_rank_reads_its_own_bytes_only(tiny):
    path = tiny("gpt2").path
    shard = Shard(start=2, stop=4, layers=LAYERS)
    before = _bytes_read()
    Stage.load(path, shard, kv_pages=1)
    read = _bytes_read() - before
    headers = 64 << 10
    assert shard_bytes(path, shard) <= read <= shard_bytes(path, shard) + headers
    assert (path / "model.safetensors").stat().st_size > 3 * shard_bytes(path, shard)
