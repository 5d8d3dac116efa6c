"""Take a Hugging Face directory into the store as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import tokenizers
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE

from paceline.checkpoint.chat import ChatTemplate
from paceline.checkpoint.facts import CONFIG_NAME, Checkpoint
from paceline.checkpoint.gguf_import import name_for
from paceline.checkpoint.hub import is_wanted
from paceline.checkpoint.partial import held
from paceline.checkpoint.progress import OnProgress, Progress, silent
from paceline.checkpoint.store import Store
from paceline.checkpoint.tokenizer import Tokenizer, special_tokens
from paceline.types.errors import CheckpointError

_TOKENIZER = "tokenizer.json"
_GPT2_END = "<|endoftext|>"


def import_dir(
    directory: Path,
    store: Store,
    name: str | None = None,
    on_progress: OnProgress = silent,
    *,
    source: str | None = None,
    move: bool = False,
) -> Path:
    """Copy (or move) `directory` into the store as checkpoint `name`; returns its path.

    Only the files that make a checkpoint are taken. Raises CheckpointError, naming file and
    reason, and leaves nothing behind, when one is missing or broken.
    """
    files = checked_files(directory)
    name = name or name_for(directory.resolve().name)
    with store.staging(name) as staged:
        try:
            _take(files, staged, on_progress, move)
            if not (staged / _TOKENIZER).exists():
                _gpt2_tokenizer(staged).save(str(staged / _TOKENIZER))
            return store.adopt(staged, name, source or f"directory {directory.name}", on_progress)
        except OSError as error:
            raise CheckpointError(f"{directory}: cannot be imported: {error}") from error


def checked_files(directory: Path) -> list[Path]:
    """The files of a checkpoint in `directory`, each of them readable and complete."""
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: not a directory")
    if not (directory / CONFIG_NAME).is_file():
        raise CheckpointError(
            f"{directory}: it has no {CONFIG_NAME}, so it is no Hugging Face model directory"
        )
    if held(directory) is not None:
        raise CheckpointError(
            f"{directory}: it is what a node has fetched of a checkpoint, with holes where the "
            "rest belongs; import the whole from where that is"
        )
    if not any(directory.glob("*.safetensors")) and any(directory.glob("pytorch_model*.bin")):
        raise CheckpointError(
            f"{directory}: it has only pytorch_model.bin, which can run code when it is loaded; "
            "save the model as safetensors (transformers: save_pretrained) and import that"
        )
    with Checkpoint(directory):
        pass
    _check_tokenizer(directory)
    ChatTemplate.load(directory)
    return sorted(path for path in directory.iterdir() if path.is_file() and is_wanted(path.name))


def _check_tokenizer(directory: Path) -> None:
    if (directory / _TOKENIZER).is_file():
        Tokenizer.load(directory)
    else:
        _gpt2_tokenizer(directory)


def _gpt2_tokenizer(directory: Path) -> tokenizers.Tokenizer:
    """Byte-level BPE from the two files that came before tokenizer.json."""
    vocab, merges = directory / "vocab.json", directory / "merges.txt"
    if not (vocab.is_file() and merges.is_file()):
        raise CheckpointError(
            f"{directory}: it has no {_TOKENIZER}, nor vocab.json and merges.txt to make one"
        )
    try:
        built = tokenizers.Tokenizer(BPE.from_file(str(vocab), str(merges)))
    except Exception as error:
        raise CheckpointError(f"{vocab}: cannot be read: {error}") from error
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    special = sorted({_GPT2_END, *special_tokens(directory).values()})
    built.add_special_tokens([token for token in special if built.token_to_id(token) is not None])
    return built


def _take(files: list[Path], target: Path, on_progress: OnProgress, move: bool) -> None:
    """Never by hard link: whoever saves the model again would write into the store."""
    total, done = sum(file.stat().st_size for file in files), 0
    for file in files:
        size = file.stat().st_size
        if move:
            file.replace(target / file.name)
        else:
            shutil.copyfile(file, target / file.name)
        done += size
        on_progress(Progress("copy", done, total, file.name))
