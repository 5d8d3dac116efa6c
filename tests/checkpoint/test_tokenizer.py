"""Encoding, decoding, and decoding token by token."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models

from paceline.checkpoint import Store, Tokenizer, import_gguf, read_eos_ids
from paceline.types.errors import CheckpointError, InvalidRequest
from tests.checkpoint.nasty import NASTY
from tests.checkpoint.tiny_gguf import Vocab, small_vocab, tokenizer_gguf
from tests.support.models import smollm2_dir


def directory_of(kind: str, home: Path) -> Path:
    if kind == "smollm2":
        return smollm2_dir()
    vocab = small_vocab("bpe" if kind == "bpe" else "spm")
    changes: Vocab = msgspec.structs.replace(
        vocab,
        pre="qwen2" if kind == "bpe" else None,
        settings=vocab.settings | ({"add_space_prefix": False} if kind == "spm bare" else {}),
    )
    return import_gguf(tokenizer_gguf(home / "m.gguf", changes), Store(home))


KINDS = ("smollm2", "bpe", "spm", "spm bare")


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: directory_of(kind, tmp_path_factory.mktemp("home")) for kind in KINDS}


@pytest.fixture(scope="module")
def loaded(directories: dict[str, Path]) -> dict[str, Tokenizer]:
    return {kind: Tokenizer.load(directory) for kind, directory in directories.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [True, False])
def test_decodes_as_the_tokenizers_library(
    kind: str, skip: bool, loaded: dict[str, Tokenizer], directories: dict[str, Path]
) -> None:
    reference = tokenizers.Tokenizer.from_file(str(directories[kind] / "tokenizer.json"))
    for text in NASTY:
        ids = loaded[kind].encode(text)
        assert ids == reference.encode(text).ids
        expected = reference.decode(ids, skip_special_tokens=skip)
        assert loaded[kind].decode(ids, skip_special_tokens=skip) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_text_survives_there_and_back(kind: str, loaded: dict[str, Tokenizer]) -> None:
    for text in NASTY:
        if kind.startswith("spm") and ("▁" in text or "[INST]" in text or "<s>" in text):
            continue
        ids = loaded[kind].encode(text, add_special_tokens=False)
        assert loaded[kind].decode(ids, skip_special_tokens=False) == text


@given(data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_joined_are_the_whole(
    kind: str, loaded: dict[str, Tokenizer], data: st.DataObject
) -> None:
    """For any ids at all: also those whose bytes are no UTF-8, and ids that do not exist."""
    tokenizer = loaded[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 5), max_size=30))
    skip, continuing = data.draw(st.booleans()), data.draw(st.booleans())
    stream = tokenizer.detokenizer(skip, continuing)
    pieces = [stream.add(id_) for id_ in ids] + [stream.finish()]
    shown = [id_ for id_ in ids if not (skip and id_ in tokenizer.special_ids)]
    text = b"".join(tokenizer.token_bytes(id_) for id_ in shown).decode(errors="replace")
    if kind == "spm" and not continuing:
        text = text.removeprefix(" ")
    assert "".join(pieces) == text == tokenizer.decode(ids, skip, continuing)


@given(text=st.text(max_size=30))
@pytest.mark.parametrize("kind", KINDS[1:])
def test_no_piece_holds_half_a_character(
    kind: str, loaded: dict[str, Tokenizer], text: str
) -> None:
    """U+FFFD is in the pieces only where it is in the text.

    (SmolLM2 itself has no token for some bytes, so some characters never reach it.)
    """
    tokenizer = loaded[kind]
    stream = tokenizer.detokenizer(skip_special_tokens=False, continuing=False)
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = [stream.add(id_) for id_ in ids] + [stream.finish()]
    assert "".join(pieces).count("\ufffd") == text.count("\ufffd")


def test_a_character_is_shown_when_its_last_byte_has_come(loaded: dict[str, Tokenizer]) -> None:
    tokenizer = loaded["spm bare"]
    ids = tokenizer.encode("🦩x", add_special_tokens=False)
    assert len(ids) == 5
    stream = tokenizer.detokenizer()
    assert [stream.add(id_) for id_ in ids] == ["", "", "", "🦩", "x"]
    cut = tokenizer.detokenizer()
    assert [cut.add(id_) for id_ in ids[:3]] == ["", "", ""]
    assert cut.finish() == "\ufffd"


def test_a_continued_text_keeps_the_space_of_its_first_word(loaded: dict[str, Tokenizer]) -> None:
    tokenizer = loaded["spm"]
    ids = tokenizer.encode("the model", add_special_tokens=False)
    assert tokenizer.decode(ids) == "the model"
    assert tokenizer.decode(ids, continuing=True) == " the model"


def test_special_tokens(loaded: dict[str, Tokenizer]) -> None:
    tokenizer = loaded["smollm2"]
    assert (tokenizer.eos_ids, tokenizer.bos_id, tokenizer.vocab_size) == ({0, 2}, 1, 49152)
    ids = tokenizer.encode("<|im_start|>hi<|im_end|>")
    assert ids[0] == 1
    assert ids[-1] == 2
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|im_start|>hi<|im_end|>"
    assert loaded["spm"].encode("hi")[0] == loaded["spm"].bos_id == 1
    assert loaded["spm"].encode("hi", add_special_tokens=False)[0] != 1


def test_tokens_on_their_own(loaded: dict[str, Tokenizer]) -> None:
    tokenizer = loaded["smollm2"]
    [hello, *_] = tokenizer.encode(" hello")
    assert tokenizer.token_bytes(hello) == b" hello"
    assert tokenizer.token_text(hello) == " hello"
    part = tokenizer.encode("🦩")[0]
    assert "\ufffd" in tokenizer.token_text(part)
    assert tokenizer.token_bytes(10**7) == tokenizer.token_bytes(-1) == b""


def test_half_a_character_is_no_text(loaded: dict[str, Tokenizer]) -> None:
    with pytest.raises(InvalidRequest, match="lone surrogate"):
        loaded["smollm2"].encode("a\ud83e")


def _tokenizer_file(directory: Path, decoder: decoders.Decoder | None) -> None:
    built = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    built.add_special_tokens(["<end>"])
    if decoder is not None:
        built.decoder = decoder
    built.save(str(directory / "tokenizer.json"))


def test_eos_is_a_set_from_every_file(tmp_path: Path) -> None:
    _tokenizer_file(tmp_path, decoders.ByteLevel())
    assert read_eos_ids(tmp_path) == frozenset()
    (tmp_path / "config.json").write_text('{"eos_token_id": 7}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [8, 9]}')
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<end>"}}')
    assert read_eos_ids(tmp_path) == {7, 8, 9, 2}
    (tmp_path / "config.json").write_text('{"eos_token_id": null}')
    assert Tokenizer.load(tmp_path).eos_ids == {8, 9, 2}


@pytest.mark.parametrize("value", ['"2"', "true", "-1", "[1.5]", "{}"])
def test_an_eos_that_is_no_id_is_refused(value: str, tmp_path: Path) -> None:
    _tokenizer_file(tmp_path, decoders.ByteLevel())
    (tmp_path / "config.json").write_text(f'{{"eos_token_id": {value}}}')
    with pytest.raises(CheckpointError, match=r"config\.json: eos_token_id"):
        read_eos_ids(tmp_path)


@pytest.mark.parametrize("decoder", [None, decoders.WordPiece()])
def test_other_decoders_are_refused(decoder: decoders.Decoder | None, tmp_path: Path) -> None:
    _tokenizer_file(tmp_path, decoder)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: decoder (none|WordPiece) is not"):
        Tokenizer.load(tmp_path)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: cannot be read"):
        Tokenizer.load(tmp_path)


def test_truncation_and_padding_of_a_training_setup_are_ignored(tmp_path: Path) -> None:
    _tokenizer_file(tmp_path, decoders.ByteLevel())
    path = tmp_path / "tokenizer.json"
    settings = json.loads(path.read_text())
    settings["truncation"] = {
        "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    path.write_text(json.dumps(settings))
    assert Tokenizer.load(tmp_path).encode("abab") == [0, 1, 0, 1]
