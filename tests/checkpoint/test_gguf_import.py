"""GGUF files become checkpoints that `transformers` loads as the models they were made of."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from paceline.checkpoint import ChatTemplate, Store, Tokenizer, import_gguf
from paceline.checkpoint.gguf_file import GgufFile, GgufTensor
from paceline.checkpoint.gguf_tensors import Rule, convert
from paceline.types.errors import CheckpointError, InvalidRequest
from tests.checkpoint.tiny_gguf import small_vocab, tokenizer_gguf
from tests.checkpoint.tiny_models import CASES, model_gguf, tiny_model


@pytest.mark.parametrize("case", CASES)
def test_transformers_loads_the_same_model(case: str, tmp_path: Path) -> None:
    model = tiny_model(case)
    directory = import_gguf(model_gguf(tmp_path / "m.gguf", case, model), Store(tmp_path / "home"))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert loaded.config.model_type == CASES[case][0]
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    ids = torch.arange(40)[None] * 7 % 1000
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=0, atol=1e-5)


def test_matrices_are_float16_and_vectors_float32(tmp_path: Path) -> None:
    gguf_file = model_gguf(tmp_path / "m.gguf", "qwen2", tiny_model("qwen2"))
    directory = import_gguf(gguf_file, Store(tmp_path / "home"))
    weights = load_file(directory / "model.safetensors")
    assert {(value.ndim, str(value.dtype)) for value in weights.values()} == {
        (1, "float32"),
        (2, "float16"),
    }


def test_rope_factors_that_are_no_llama3_are_kept(tmp_path: Path) -> None:
    factors = [1.0] * 8 + [1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 9.0]
    path = tokenizer_gguf(
        tmp_path / "m.gguf", small_vocab("spm"), tensors={"rope_freqs.weight": np.array(factors)}
    )
    directory = import_gguf(path, Store(tmp_path / "home"))
    config = json.loads((directory / "config.json").read_bytes())
    assert config["rope_scaling"] == {"rope_type": "factors", "factors": factors}


def test_large_models_are_cut_into_several_files(tmp_path: Path) -> None:
    model = tiny_model("llama")
    path = model_gguf(tmp_path / "m.gguf", "llama", model)
    directory = import_gguf(path, Store(tmp_path / "home"), max_file_bytes=100_000)
    files = sorted(directory.glob("*.safetensors"))
    assert len(files) > 2
    assert max(file.stat().st_size for file in files) < 200_000
    loaded = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.parametrize("kind", gguf.quants._type_traits)
def test_every_quantisation_is_read_as_the_gguf_package_reads_it(
    kind: gguf.GGMLQuantizationType, tmp_path: Path
) -> None:
    """Bytes below 0x3c make small finite scales in every format."""
    block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = 37, 3 * block_elements
    raw = np.random.default_rng(0).integers(0, 0x3C, rows * 3 * block_bytes).astype(np.uint8)
    file = GgufFile(tokenizer_gguf(tmp_path / "any.gguf", small_vocab("spm")))
    file.raw = lambda _: raw  # type: ignore[method-assign]
    tensor = GgufTensor(
        name="t", shape=(rows, columns), quantisation=kind, offset=0, nbytes=raw.nbytes
    )
    expected = gguf.quants.dequantize(raw.reshape(rows, -1), kind).astype(np.float16)
    np.testing.assert_array_equal(convert(file, tensor, Rule(name="t")), expected)


def test_values_beyond_float16_are_refused(tmp_path: Path) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 3] = 1e6
    path = model_gguf(tmp_path / "m.gguf", "llama", model, gguf.GGMLQuantizationType.F32)
    with pytest.raises(CheckpointError, match=r"m\.gguf: tensor 'blk\.1\.ffn_up\.weight'.*float16"):
        import_gguf(path, Store(tmp_path / "home"))


def test_tokenizer_files_and_eos_set(tmp_path: Path) -> None:
    template = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}{% endfor %}"
    settings = {"/tokenizer.chat_template": template, "context_length": 512}
    vocab = msgspec.structs.replace(small_vocab("bpe"), pre="qwen2")
    vocab.settings = vocab.settings | {"eot_token_id": 300}
    path = tokenizer_gguf(tmp_path / "Some Model (v2).gguf", vocab, settings)
    store = Store(tmp_path / "home")
    directory = import_gguf(path, store)
    assert directory.name == "some-model-v2"
    assert store.manifest("some-model-v2").source == "GGUF file Some Model (v2).gguf"
    tokenizer = Tokenizer.load(directory)
    named, known = vocab.tokens.index("<|im_end|>"), vocab.tokens.index("<|endoftext|>")
    assert tokenizer.eos_ids == {named, known, 300}
    chat = ChatTemplate.load(directory)
    assert chat is not None
    assert chat.render([{"role": "user", "content": "hi"}]) == "<|im_start|>user: hi"


def test_an_end_token_that_is_plain_text_ends_nothing(tmp_path: Path) -> None:
    """`</s>` is an ordinary piece of this vocabulary."""
    directory = import_gguf(
        tokenizer_gguf(
            tmp_path / "m.gguf", msgspec.structs.replace(small_vocab("bpe"), pre="qwen2")
        ),
        Store(tmp_path / "home"),
    )
    tokenizer = Tokenizer.load(directory)
    assert tokenizer.encode("</s>")[0] not in tokenizer.eos_ids
    assert tokenizer.decode(tokenizer.encode("a</s>b")) == "a</s>b"


@pytest.mark.parametrize(
    ("arch", "settings", "reason"),
    [
        ("gemma", {}, "architecture 'gemma' is not supported; llama"),
        ("llama", {"expert_count": 8}, "mixtures of experts"),
        ("llama", {"/split.count": 3}, "one of 3 parts; join them"),
        ("llama", {"rope.dimension_count": 16}, "rope over 16 of 32"),
        ("llama", {"rope.scaling.type": "su", "rope.scaling.factor": 2.0}, "rope scaling 'su'"),
        ("llama", {"block_count": 0}, "block_count is 0"),
        ("llama", {"block_count": 2}, "does not make a checkpoint"),
        ("llama", {"attention.head_count": "many"}, "head_count is 'many', not int"),
        ("llama", {"feed_forward_length": 64}, "does not make a checkpoint"),
    ],
)
def test_unsupported_files_are_refused_and_leave_nothing(
    arch: str, settings: dict[str, object], reason: str, tmp_path: Path
) -> None:
    path = tokenizer_gguf(tmp_path / "odd.gguf", small_vocab("spm"), settings, arch)
    store = Store(tmp_path / "home")
    with pytest.raises(CheckpointError, match=reason) as refused:
        import_gguf(path, store)
    assert "odd.gguf" in str(refused.value)
    assert str(tmp_path / "home") not in str(refused.value)
    assert store.names() == []
    assert [
        file for file in (tmp_path / "home").rglob("*") if file.suffix != ".lock" and file.is_file()
    ] == []


def test_a_tensor_that_the_family_does_not_have_is_refused(tmp_path: Path) -> None:
    path = tokenizer_gguf(
        tmp_path / "odd.gguf", small_vocab("spm"), tensors={"blk.0.strange.weight": np.ones(4)}
    )
    with pytest.raises(CheckpointError, match=r"strange\.weight' is not known"):
        import_gguf(path, Store(tmp_path / "home"))


def test_a_name_that_leaves_the_store_is_refused(tmp_path: Path) -> None:
    path = tokenizer_gguf(tmp_path / "m.gguf", small_vocab("spm"))
    with pytest.raises(InvalidRequest, match="not a model name"):
        import_gguf(path, Store(tmp_path / "home"), "../elsewhere")
