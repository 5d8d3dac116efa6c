"""Tokenizers from GGUF give llama.cpp's ids: recorded by record_llama_cpp.py."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import tokenizers

from paceline.checkpoint.gguf_config import Metadata
from paceline.checkpoint.gguf_file import GgufFile
from paceline.checkpoint.gguf_tokenizer import Vocabulary, vocabulary
from paceline.checkpoint.tokenizer import Tokenizer
from paceline.types.errors import CheckpointError
from tests.checkpoint.kinds import kinds
from tests.checkpoint.nasty import NASTY
from tests.checkpoint.tiny_gguf import Vocab, read_recorded, small_vocab, tokenizer_gguf
from tests.support.models import smollm2_dir

RECORDED = read_recorded("llama_cpp_ids.json")


def built(tmp_path: Path, vocab: Vocab) -> Vocabulary:
    return vocabulary(Metadata(GgufFile(tokenizer_gguf(tmp_path / "tokenizer.gguf", vocab))))


@pytest.mark.parametrize("kind", kinds())
def test_ids_are_llama_cpps(kind: str, tmp_path: Path) -> None:
    saved = built(tmp_path, kinds()[kind]).tokenizer.to_str()
    tokenizer = tokenizers.Tokenizer.from_str(saved)
    found = {text: tokenizer.encode(text).ids for text in NASTY}
    assert found == dict(zip(NASTY, RECORDED[kind], strict=True))


def test_ids_of_the_real_model_are_llama_cpps() -> None:
    tokenizer = Tokenizer.load(smollm2_dir())
    found = {text: tokenizer.encode(text) for text in NASTY}
    assert found == dict(zip(NASTY, RECORDED["smollm2"], strict=True))


def test_the_kinds_differ_where_it_matters() -> None:
    """Else the recorded ids could not tell one pre-tokeniser from another."""
    one_of_each = [
        "bpe gpt-2",
        "bpe smollm",
        "bpe default",
        "bpe llama-bpe",
        "bpe qwen2",
        "bpe tekken",
    ]
    assert len({str(RECORDED[kind]) for kind in one_of_each}) == len(one_of_each)


def test_unknown_pre_tokeniser_is_refused(tmp_path: Path) -> None:
    vocab = msgspec.structs.replace(small_vocab("bpe"), pre="of-tomorrow")
    with pytest.raises(CheckpointError, match=r"tokenizer\.gguf: pre-tokeniser 'of-tomorrow'"):
        built(tmp_path, vocab)


def test_unknown_tokenizer_model_is_refused(tmp_path: Path) -> None:
    vocab = msgspec.structs.replace(small_vocab("bpe"), model="t5")
    with pytest.raises(CheckpointError, match="tokenizer model 't5' is not supported; gpt2, llama"):
        built(tmp_path, vocab)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"merges": ["nospace"]}, "'nospace' is not a pair"),
        ({"merges": ["no suchpiece"]}, "inconsistent"),
        ({"types": [1, 2, 3]}, "3 token types for"),
        ({"types": [99] * 1107}, "99"),
    ],
)
def test_inconsistent_vocabulary_is_refused(
    changes: dict[str, list[object]], reason: str, tmp_path: Path
) -> None:
    vocab = msgspec.structs.replace(small_vocab("bpe"), pre="qwen2", **changes)
    with pytest.raises(CheckpointError, match=reason):
        built(tmp_path, vocab)


def test_bos_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    vocab = msgspec.structs.replace(small_vocab("spm"), settings={"bos_token_id": 10**6})
    with pytest.raises(CheckpointError, match="1000000 is not in the vocabulary"):
        built(tmp_path, vocab)
