"""Turn a GGUF file into a stored checkpoint in Hugging Face layout."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from paceline.checkpoint.facts import Checkpoint
from paceline.checkpoint.gguf_config import Metadata, hf_config
from paceline.checkpoint.gguf_file import GgufFile
from paceline.checkpoint.gguf_tensors import MAX_FILE_BYTES, write_weights
from paceline.checkpoint.gguf_tokenizer import END_TEXTS, TokenType, Vocabulary, vocabulary
from paceline.checkpoint.jsonfile import write_json
from paceline.checkpoint.progress import OnProgress, silent
from paceline.checkpoint.store import Store
from paceline.types.errors import CheckpointError

_TOKEN_IDS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_EOS_KEYS = ("eos", "eot", "eom")


def import_gguf(
    file: Path,
    store: Store,
    name: str | None = None,
    on_progress: OnProgress = silent,
    *,
    source: str | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Path:
    """Convert `file` into the checkpoint `name` (by default the file's name) and return its path.

    A checkpoint of that name is replaced. Raises CheckpointError, naming file and reason, and
    leaves nothing behind, when the file is broken or not supported.
    """
    gguf = GgufFile(file)
    metadata = Metadata(gguf)
    name = name or name_for(file.stem)
    with store.staging(name) as staged:
        try:
            _write(metadata, staged, on_progress, max_file_bytes)
            _check(gguf, staged)
            return store.adopt(staged, name, source or f"GGUF file {file.name}", on_progress)
        except (OSError, SafetensorError) as error:
            raise gguf.error(f"cannot be converted: {error}") from error


def _check(gguf: GgufFile, staged: Path) -> None:
    """Every tensor that the configuration calls for is there, in its shape."""
    try:
        with Checkpoint(staged):
            pass
    except CheckpointError as error:
        reason = str(error).replace(f"{staged}{os.sep}", "").replace(str(staged), "the result")
        raise gguf.error(f"does not make a checkpoint: {reason}") from error


def name_for(stem: str) -> str:
    """A model name from a file or directory name: lower case, nothing that a name may not hold."""
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-.") or "model"


def _write(
    metadata: Metadata, directory: Path, on_progress: OnProgress, max_file_bytes: int
) -> None:
    config = hf_config(metadata)
    vocab = vocabulary(metadata)
    if len(vocab.tokens) > config["vocab_size"]:
        raise metadata.file.error(
            f"{len(vocab.tokens)} tokens, but the embedding has {config['vocab_size']} rows"
        )
    ids = _token_ids(metadata, vocab)
    eos = eos_ids(metadata, vocab)
    write_json(directory / "config.json", {**config, **_id_entries(ids, eos)})
    write_json(directory / "generation_config.json", _id_entries(ids, eos))
    write_json(directory / "tokenizer_config.json", _tokenizer_config(metadata, vocab, ids))
    vocab.tokenizer.save(str(directory / "tokenizer.json"))
    write_weights(metadata, directory, on_progress, max_file_bytes)


def eos_ids(metadata: Metadata, vocab: Vocabulary) -> list[int]:
    """Every token that ends an answer: those the metadata name, and well-known control tokens."""
    named = {metadata.find(f"tokenizer.ggml.{key}_token_id", int) for key in _EOS_KEYS}
    known = {
        id_
        for id_, (token, type_) in enumerate(zip(vocab.tokens, vocab.types, strict=True))
        if type_ in (TokenType.CONTROL, TokenType.USER_DEFINED) and token in END_TEXTS
    }
    return sorted({id_ for id_ in named if id_ is not None} | known)


def _token_ids(metadata: Metadata, vocab: Vocabulary) -> dict[str, int]:
    found = {}
    for role, key in _TOKEN_IDS.items():
        id_ = metadata.find(f"tokenizer.ggml.{key}_token_id", int)
        if id_ is None:
            continue
        if not 0 <= id_ < len(vocab.tokens):
            raise metadata.file.error(f"the {role} token id {id_} is not in the vocabulary")
        found[role] = id_
    return found


def _id_entries(ids: dict[str, int], eos: list[int]) -> dict[str, Any]:
    entries: dict[str, Any] = {
        f"{role}_token_id": ids[role] for role in ("bos", "pad") if role in ids
    }
    if eos:
        entries["eos_token_id"] = eos[0] if len(eos) == 1 else eos
    return entries


def _tokenizer_config(metadata: Metadata, vocab: Vocabulary, ids: dict[str, int]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata.size("{}.context_length"),
        "add_bos_token": vocab.add_bos,
        "add_eos_token": vocab.add_eos,
    }
    config |= {f"{role}_token": vocab.tokens[id_] for role, id_ in ids.items()}
    if template := _chat_template(metadata):
        config["chat_template"] = template
    return config


def _chat_template(metadata: Metadata) -> str | list[dict[str, str]] | None:
    """The template, or a list of named ones where the file has several."""
    default = metadata.find("tokenizer.chat_template", str)
    named = {
        name: metadata.get(f"tokenizer.chat_template.{name}", str)
        for name in metadata.find("tokenizer.chat_templates", list) or ()
    }
    if not named:
        return default
    if default is not None:
        named["default"] = default
    return [{"name": name, "template": template} for name, template in named.items()]
