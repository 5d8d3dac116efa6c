"""Which chunks of a checkpoint a rank or a gateway needs, found out from what is there already.

In steps, since each tells where the next ones lie: the small files, the headers of the tensor
files, the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from paceline.checkpoint.chunks import Range, covering, merged
from paceline.checkpoint.facts import Checkpoint
from paceline.checkpoint.manifest import Manifest, StoredFile
from paceline.checkpoint.partial import Chunks, whole
from paceline.checkpoint.tensors import HEADER_START, TensorInfo, header_bytes
from paceline.types.errors import CheckpointError
from paceline.types.model import Shard

Step = Callable[[Path, Manifest], Chunks]
"""What is needed next of the checkpoint in a directory, once what the steps before it asked for
is there. Raises CheckpointError."""

WEIGHTS_SUFFIX = ".safetensors"


def text_steps() -> tuple[Step, ...]:
    """For a gateway: config, tokenizer and chat template."""
    return (_small_files,)


def checkpoint_steps() -> tuple[Step, ...]:
    """For whoever needs all of it."""
    return (lambda _, manifest: whole(manifest),)


def shard_steps(shard: Shard) -> tuple[Step, ...]:
    """For a rank."""

    def tensors(directory: Path, manifest: Manifest) -> Chunks:
        with Checkpoint(directory) as checkpoint:
            parts = (part for tensor in checkpoint.tensors(shard) for part in tensor.parts)
            infos = [checkpoint.files.info(part.name) for part in parts]
        return tensor_chunks(infos, manifest)

    return _small_files, _header_starts, _headers, tensors


def tensor_chunks(infos: list[TensorInfo], manifest: Manifest) -> Chunks:
    """The chunks that hold these tensors."""
    by_name: dict[str, list[Range]] = {}
    for info in infos:
        by_name.setdefault(info.path.name, []).append((info.offset, info.offset + info.nbytes))
    return {
        number: covering(merged(by_name[file.name]), file.chunk_bytes)
        for number, file in enumerate(manifest.files)
        if file.name in by_name
    }


def _small_files(_: Path, manifest: Manifest) -> Chunks:
    """All that hold no tensors, as a whole."""
    return {
        number: ((0, file.chunks),)
        for number, file in enumerate(manifest.files)
        if not file.name.endswith(WEIGHTS_SUFFIX)
    }


def _header_starts(_: Path, manifest: Manifest) -> Chunks:
    return {
        number: covering([(0, HEADER_START)], file.chunk_bytes)
        for number, file in _tensor_files(manifest)
    }


def _headers(directory: Path, manifest: Manifest) -> Chunks:
    return {
        number: covering([(0, _header_bytes(directory / file.name, file))], file.chunk_bytes)
        for number, file in _tensor_files(manifest)
    }


def _header_bytes(path: Path, file: StoredFile) -> int:
    try:
        with path.open("rb") as opened:
            return header_bytes(opened.read(HEADER_START), path, file.size)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def _tensor_files(manifest: Manifest) -> Iterator[tuple[int, StoredFile]]:
    return (
        (number, file)
        for number, file in enumerate(manifest.files)
        if file.name.endswith(WEIGHTS_SUFFIX)
    )
