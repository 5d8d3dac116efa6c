"""From bytes on disk to weights in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from paceline.checkpoint.facts import Checkpoint, shard_bytes
from paceline.engine import stored, weights
from paceline.engine.eager import EagerMatrix
from paceline.engine.forms import FloatForm, QuantisedForm
from paceline.engine.matrices import FloatMatrix, Matrix
from paceline.engine.quantised import QuantisedMatrix, quantise
from paceline.engine.reference import ReferenceOps
from paceline.engine.stage import Stage
from paceline.types.errors import CheckpointError
from paceline.types.model import Shard
from tests.engine.tiny import LAYERS, make

WHOLE = Shard(start=0, stop=LAYERS, layers=LAYERS)


def _bytes_read() -> int:
    fields = Path("/proc/self/io").read_text().split()
    return int(fields[fields.index("rchar:") + 1])


def _loaded(directory: Path) -> weights.Weights:
    form = FloatForm(ReferenceOps().linear)
    with Checkpoint(directory) as checkpoint:
        return weights.load_weights(checkpoint, WHOLE, form, lambda done, total: None)


def _floats(matrix: Matrix | None) -> torch.Tensor:
    assert isinstance(matrix, FloatMatrix)
    return matrix.weight


@pytest.mark.parametrize("block_bytes", [1, 1000, 1 << 30])
def test_parts_are_stacked_and_conv1d_transposed(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(stored, "_BLOCK_BYTES", block_bytes)
    state = make("llama_biases", tmp_path / "llama").state_dict()
    layer = _loaded(tmp_path / "llama").layers[3]
    attention = "model.layers.3.self_attn"
    for kind, found in (("weight", _floats(layer.qkv.matrix)), ("bias", layer.qkv.bias)):
        parts = [state[f"{attention}.{name}_proj.{kind}"] for name in "qkv"]
        assert torch.equal(found, torch.cat(parts))

    state = make("gpt2", tmp_path / "gpt2").state_dict()
    layer = _loaded(tmp_path / "gpt2").layers[3]
    assert torch.equal(_floats(layer.qkv.matrix), state["transformer.h.3.attn.c_attn.weight"].t())
    assert torch.equal(_floats(layer.down.matrix), state["transformer.h.3.mlp.c_proj.weight"].t())
    assert _floats(layer.down.matrix).is_contiguous()


@pytest.mark.parametrize("block_bytes", [1, 1000, 1 << 30])
@pytest.mark.parametrize(
    ("case", "bits"), [("llama_biases", 8), ("gpt2", 8), ("llama_int4", 4), ("gpt2_int4", 4)]
)
def test_quantised_weights_are_made_of_the_same_floats(
    tmp_path, monkeypatch, block_bytes, case, bits
):
    monkeypatch.setattr(stored, "_BLOCK_BYTES", block_bytes)
    make(case, tmp_path)
    floats = _loaded(tmp_path)
    held: list[QuantisedMatrix] = []

    def keep(matrix: QuantisedMatrix) -> EagerMatrix:
        held.append(matrix)
        return EagerMatrix(matrix)

    with Checkpoint(tmp_path) as checkpoint:
        form = QuantisedForm(bits, keep, None)
        weights.load_weights(checkpoint, WHOLE, form, lambda done, total: None)
    order = [floats.embed]
    for layer in floats.layers:
        order += [one.matrix for one in (layer.qkv, layer.o, layer.up, layer.down)]
    order += [] if floats.head is floats.embed else [floats.head]
    tables = (floats.embed, floats.head)
    for matrix, expected in zip(held, order, strict=True):
        assert matrix.bits == (8 if expected in tables else bits)
        packed, scales = quantise(_floats(expected), matrix.bits)
        assert torch.equal(matrix.packed, packed)
        assert torch.equal(matrix.scales, scales)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_exactly(tmp_path, dtype):
    make("llama", tmp_path).to(dtype).save_pretrained(tmp_path)
    halves = load_file(tmp_path / "model.safetensors")
    found = _loaded(tmp_path)
    assert torch.equal(_floats(found.embed), halves["model.embed_tokens.weight"].float())
    down = halves["model.layers.6.mlp.down_proj.weight"]
    assert torch.equal(_floats(found.layers[6].down.matrix), down.float())


def test_other_dtypes_are_refused(tmp_path):
    make("llama", tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].double()
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is F64; weights can be F32"):
        _loaded(tmp_path)


@pytest.mark.parametrize("case", ["gpt2", "llama"])
def test_a_rank_reads_its_own_bytes_only(tiny, dtype, case):
    path = tiny(case).path
    shard = Shard(start=2, stop=4, layers=LAYERS)
    before = _bytes_read()
    Stage.load(path, shard, kv_pages=1, dtype=dtype)
    read = _bytes_read() - before
    headers = 64 << 10
    assert shard_bytes(path, shard) <= read <= shard_bytes(path, shard) + headers
    assert (path / "model.safetensors").stat().st_size > 3 * shard_bytes(path, shard)
