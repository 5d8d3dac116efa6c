"""Hugging Face directories are taken as they are, or refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers

from paceline.checkpoint import Progress, Store, Tokenizer, import_dir
from paceline.checkpoint.gguf_import import import_gguf
from paceline.types.errors import CheckpointError
from tests.checkpoint.tiny_models import model_gguf, tiny_model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 with its tokenizer, as `transformers` saves it."""
    directory = tmp_path_factory.mktemp("made")
    model = tiny_model("gpt2")
    imported = import_gguf(model_gguf(directory / "m.gguf", "gpt2", model), Store(directory))
    model.save_pretrained(directory / "Tiny GPT", max_shard_size="100KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / "Tiny GPT" / name).write_bytes((imported / name).read_bytes())
    return directory / "Tiny GPT"


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    directory = tmp_path / made.name
    directory.mkdir()
    for file in made.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    return directory


def test_files_are_taken_as_they_are(source: Path, tmp_path: Path) -> None:
    (source / "README.md").write_text("not part of a checkpoint")
    (source / "optimizer.bin").write_bytes(b"\0" * 10)
    store, reports = Store(tmp_path / "home"), list[Progress]()
    path = import_dir(source, store, on_progress=reports.append)
    assert path.name == "tiny-gpt"
    expected = {file.name: file.read_bytes() for file in source.iterdir()}
    del expected["README.md"], expected["optimizer.bin"]
    found = {file.name: file.read_bytes() for file in path.iterdir()}
    del found["paceline.json"]
    assert found == expected
    assert len([name for name in found if name.endswith(".safetensors")]) > 1
    copied = [report for report in reports if report.stage == "copy"]
    assert copied[-1].done_bytes == copied[-1].total_bytes


def test_the_store_keeps_its_own_bytes(source: Path, tmp_path: Path) -> None:
    path = import_dir(source, Store(tmp_path / "home"))
    for file in source.glob("*.safetensors"):
        before = (path / file.name).read_bytes()
        with file.open("r+b") as edited:
            edited.write(b"overwritten in place")
        assert (path / file.name).read_bytes() == before


def test_a_tokenizer_of_the_older_layout_is_built(source: Path, tmp_path: Path) -> None:
    whole = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    model = json.loads(whole.to_str())["model"]
    (source / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (source / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (source / "tokenizer.json").unlink()
    tokenizer = Tokenizer.load(import_dir(source, Store(tmp_path / "home")))
    text = "Hello there, it's 1234 naïve people<|endoftext|>"
    ids = tokenizer.encode(text)
    assert ids[-1] == model["vocab"]["<|endoftext|>"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def _cut_weights(source: Path) -> None:
    weights = min(source.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])


def _only_pickles(source: Path) -> None:
    for weights in source.glob("*.safetensors*"):
        weights.unlink()
    (source / "pytorch_model.bin").write_bytes(b"\x80")


def _remove(name: str) -> Callable[[Path], None]:
    return lambda source: min(source.glob(name)).unlink()


def _write(name: str, text: str) -> Callable[[Path], object]:
    return lambda source: (source / name).write_text(text)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_remove("config.json"), "it has no config.json"),
        (_write("config.json", "{"), "config.json: "),
        (_write("config.json", '{"model_type": "mamba"}'), "mamba"),
        (_remove("*.safetensors"), r"\.safetensors: is missing"),
        (_cut_weights, r"\.safetensors: .*(truncated|outside|ends)"),
        (_only_pickles, "only pytorch_model.bin, which can run code"),
        (_remove("tokenizer.json"), "no tokenizer.json, nor vocab.json and merges.txt"),
        (_write("tokenizer.json", "{}"), "tokenizer.json: cannot be read"),
        (_write("tokenizer_config.json", "[]"), "tokenizer_config.json: not a JSON object"),
        (_write("generation_config.json", '{"eos_token_id": "x"}'), "generation_config.json: eos"),
        (_write("chat_template.jinja", "{% for %}"), "chat template does not parse"),
    ],
)
def test_broken_directories_are_refused_and_leave_nothing(
    spoil: Callable[[Path], object], reason: str, source: Path, tmp_path: Path
) -> None:
    spoil(source)
    store = Store(tmp_path / "home")
    with pytest.raises(CheckpointError, match=reason) as refused:
        import_dir(source, store)
    assert str(source) in str(refused.value)
    assert store.names() == []
    assert not (tmp_path / "home").exists()


def test_a_file_is_no_directory(source: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a directory"):
        import_dir(source / "config.json", Store(tmp_path))
