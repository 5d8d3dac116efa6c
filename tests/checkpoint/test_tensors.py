from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model, LlamaConfig, LlamaForCausalLM

from paceline.checkpoint.facts import Checkpoint, model_facts, shard_bytes, shard_tensors
from paceline.checkpoint.tensors import TensorFiles, read_header
from paceline.types.errors import CheckpointError
from paceline.types.model import Shard

WEIGHTS = "model.safetensors"


def _llama(**options):
    sizes = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**sizes | options))


@pytest.fixture
def llama(tmp_path):
    _llama().save_pretrained(tmp_path)
    return tmp_path


def _rewrite(directory, change):
    """Save the checkpoint's tensors again, changed."""
    with TensorFiles(directory) as files:
        arrays = {
            info.name: files.read(info.name).view(np.float32).reshape(info.shape) for info in files
        }
    change(arrays)
    save_file(arrays, directory / WEIGHTS)


def _with_header(path, header: dict | bytes, data: bytes = b"", length: int | None = None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)


def test_reads_whole_tensors_and_rows(tmp_path):
    table = np.arange(12, dtype=np.float16).reshape(4, 3)
    save_file({"table": table, "other": np.ones(5, np.float32)}, tmp_path / "a.safetensors")
    save_file({"scalar": np.array(7, np.int64)}, tmp_path / "b.safetensors")
    with TensorFiles(tmp_path) as files:
        assert files.info("table").dtype == "F16"
        assert files.info("table").shape == (4, 3)
        assert {info.name for info in files} == {"table", "other", "scalar"}
        assert (files.read("table").view(np.float16).reshape(4, 3) == table).all()
        assert (files.read("table", 1, 3).view(np.float16).reshape(2, 3) == table[1:3]).all()
        assert files.read("scalar").view(np.int64) == 7
        assert files.read("table", 2, 2).size == 0
        with pytest.raises(CheckpointError, match="4 rows"):
            files.read("table", 3, 5)
        with pytest.raises(CheckpointError, match="no tensor nothing"):
            files.read("nothing")


def test_a_file_cut_while_open_is_an_error(tmp_path):
    path = tmp_path / WEIGHTS
    save_file({"x": np.ones(1000, np.float32)}, path)
    with TensorFiles(tmp_path) as files:
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(CheckpointError, match="ends within tensor x"):
            files.read("x")


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data", "length", "reason"),
    [
        ({"x": ENTRY}, b"1234567", None, "truncated: "),
        ({"x": ENTRY}, b"123456789", None, "corrupt: "),
        ({"x": ENTRY}, b"12345678", 1 << 40, "truncated, or not a safetensors file"),
        ({"x": ENTRY}, b"", 0, "not a safetensors file"),
        (b"{not json}", b"", None, "corrupt"),
        (b"[1, 2]", b"", None, "corrupt"),
        ({"x": 5}, b"", None, "corrupt header of tensor x"),
        ({"x": ENTRY | {"dtype": "F7"}}, b"12345678", None, "unknown dtype 'F7'"),
        ({"x": ENTRY | {"shape": [3]}}, b"12345678", None, "size of tensor x"),
        ({"x": ENTRY | {"shape": [-1, -2]}}, b"12345678", None, "negative"),
        ({"x": ENTRY | {"data_offsets": [8, 16]}}, b"1" * 16, None, "out of place"),
        ({"x": ENTRY, "y": ENTRY}, b"12345678", None, "out of place"),
    ],
)
def test_broken_files_name_file_and_reason(tmp_path, header, data, length, reason):
    path = tmp_path / WEIGHTS
    _with_header(path, header, data, length)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("size", [0, 5, 8, 200])
def test_a_checkpoint_cut_anywhere_is_an_error(llama, size):
    path = llama / WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=WEIGHTS):
        Checkpoint(llama)


def test_which_files_hold_the_weights(llama):
    (llama / "consolidated.safetensors").write_bytes(b"the same weights under other names")
    with Checkpoint(llama) as checkpoint:
        assert [path.name for path in checkpoint.files.paths] == [WEIGHTS]


def test_an_indexed_checkpoint_needs_every_file(tmp_path):
    _llama().save_pretrained(tmp_path, max_shard_size="4KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 1
    facts = model_facts(tmp_path, "tiny")
    assert facts.disk_bytes == sum(path.stat().st_size for path in shards)
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=f"{shards[1].name}: is missing"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("weight_map", [{}, {"x": "../elsewhere.safetensors"}])
def test_an_index_stays_within_its_directory(llama, weight_map):
    index = llama / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="another directory"):
        Checkpoint(llama)


def test_no_weights_and_no_config(llama):
    (llama / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"has no \*\.safetensors"):
        Checkpoint(llama)
    (llama / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: corrupt"):
        Checkpoint(llama)
    (llama / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        Checkpoint(llama)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop("model.norm.weight"), "no tensor model.norm.weight"),
        (lambda t: t.pop("model.embed_tokens.weight"), "no tensor model.embed_tokens.weight or"),
        (lambda t: t.pop("lm_head.weight"), "no tensor lm_head.weight"),
        (
            lambda t: t.update({"lm_head.weight": np.ones((3, 16), np.float32)}),
            r"shape \[3, 16\], but config.json makes it \[40, 16\]",
        ),
        (
            lambda t: t.update({"model.layers.1.self_attn.q_proj.bias": np.ones(16, np.float32)}),
            "q_proj.bias has no place in family llama",
        ),
    ],
)
def test_tensors_that_do_not_fit_the_config(llama, change, reason):
    _rewrite(llama, change)
    with pytest.raises(CheckpointError, match=reason):
        Checkpoint(llama)


def test_constants_of_old_checkpoints_do_no_harm(llama):
    extra = "model.layers.0.self_attn.rotary_emb.inv_freq"
    _rewrite(llama, lambda tensors: tensors.update({extra: np.ones(2, np.float32)}))
    assert extra not in shard_tensors(llama, Shard(start=0, stop=3, layers=3))


@pytest.mark.parametrize("tied", [False, True])
def test_facts_count_every_parameter(tmp_path, tied):
    model = _llama(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    facts = model_facts(tmp_path, "tiny")
    table = 40 * 16
    assert facts.embed_params == table
    assert facts.head_params == table + 16
    assert len(set(facts.layer_params)) == 1
    total = facts.embed_params + sum(facts.layer_params) + facts.head_params
    assert total - (table if tied else 0) == model.num_parameters()
    assert (facts.name, facts.family, facts.tied) == ("tiny", "llama", tied)
    assert (facts.width, facts.vocab_size, facts.kv_width) == (16, 40, 8)


def test_digests_follow_the_config(llama):
    before = model_facts(llama, "a").digest
    assert model_facts(llama, "b").digest == before
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-4}))
    assert model_facts(llama, "a").digest != before


@pytest.mark.parametrize("tied", [False, True])
def test_shards_share_the_checkpoint_out(tmp_path, tied):
    _llama(tie_word_embeddings=tied).save_pretrained(tmp_path)
    cuts = [(0, 1), (1, 3)]
    parts = [Shard(start=start, stop=stop, layers=3) for start, stop in cuts]
    names = [set(shard_tensors(tmp_path, part)) for part in parts]
    whole = Shard(start=0, stop=3, layers=3)
    assert names[0] | names[1] == set(shard_tensors(tmp_path, whole))
    table = {"model.embed_tokens.weight"} if tied else set()
    assert names[0] & names[1] == table
    both = sum(shard_bytes(tmp_path, part) for part in parts)
    assert both == shard_bytes(tmp_path, whole) + (40 * 16 * 4 if tied else 0)


@pytest.mark.parametrize(("start", "stop", "layers"), [(0, 4, 4), (2, 2, 3), (-1, 2, 3), (1, 4, 3)])
def test_a_shard_of_another_model_is_refused(llama, start, stop, layers):
    with pytest.raises(CheckpointError, match="no shard of this model, which has 3 layers"):
        shard_bytes(llama, Shard(start=start, stop=stop, layers=layers))


def test_gpt2_with_and_without_prefix(tmp_path):
    config = GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    whole = Shard(start=0, stop=2, layers=2)
    for kind in (GPT2LMHeadModel, GPT2Model):
        kind(config).save_pretrained(tmp_path / kind.__name__)
    prefixed = shard_tensors(tmp_path / "GPT2LMHeadModel", whole)
    bare = shard_tensors(tmp_path / "GPT2Model", whole)
    assert tuple(f"transformer.{name}" for name in bare) == prefixed
