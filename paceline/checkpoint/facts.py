"""A checkpoint opened as a whole, and what others ask of it: its sizes, and a shard's bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from paceline.checkpoint.architecture import ModelConfig
from paceline.checkpoint.families import parse_config
from paceline.checkpoint.layout import Layout, Tensor
from paceline.checkpoint.manifest import MANIFEST_NAME, Manifest, read_manifest
from paceline.checkpoint.model_sizes import config_facts, facts_of
from paceline.checkpoint.tensors import TensorFiles
from paceline.types.errors import CheckpointDamaged, CheckpointError
from paceline.types.model import ModelFacts, Shard

T = TypeVar("T")

CONFIG_NAME = "config.json"

_IDENTITY_NAMES = (CONFIG_NAME, "tokenizer.json")
_NO_WEIGHTS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
"""Constants that old checkpoints carry beside a layer's weights."""


class Checkpoint:
    """Config, layout and files of one directory, checked against each other; a context manager."""

    def __init__(self, directory: Path) -> None:
        """Raises CheckpointError when anything is missing, unsupported or of a wrong shape."""
        self.directory = directory
        self.config = read_config(directory)
        self.files = TensorFiles(directory)
        self.layout = Layout(self.config, self.files)
        self._check(self.whole())

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.files.close()

    def whole(self) -> Shard:
        layers = len(self.config.layers)
        return Shard(start=0, stop=layers, layers=layers)

    def tensors(self, shard: Shard) -> tuple[Tensor, ...]:
        """Those of a shard. Raises CheckpointError if the shard is none of this model."""
        layers = len(self.config.layers)
        if shard.layers != layers or not 0 <= shard.start < shard.stop <= layers:
            raise CheckpointError(
                f"{self.directory}: layers [{shard.start}, {shard.stop}) of {shard.layers} are no "
                f"shard of this model, which has {layers} layers"
            )
        return self.layout.shard(shard)

    def manifest(self) -> Manifest | None:
        """Where the checkpoint is one of the store's. Raises CheckpointError."""
        if not (self.directory / MANIFEST_NAME).is_file():
            return None
        return read_manifest(self.directory)

    def digest(self) -> str | None:
        """The store's identity of the content, where the checkpoint is one of the store's."""
        manifest = self.manifest()
        return None if manifest is None else manifest.digest

    def _check(self, whole: Shard) -> None:
        used = set()
        for tensor in self.tensors(whole):
            for part in tensor.parts:
                used.add(part.name)
                info = self.files.info(part.name)
                if info.shape != part.shape:
                    raise CheckpointError(
                        f"{info.path}: tensor {part.name} has shape {list(info.shape)}, but "
                        f"{CONFIG_NAME} makes it {list(part.shape)}"
                    )
        layers = tuple(self.layout.base(i) for i in range(whole.layers))
        for info in self.files:
            stray = info.name.startswith(layers) and not info.name.endswith(_NO_WEIGHTS)
            if stray and info.name not in used:
                raise CheckpointError(
                    f"{info.path}: tensor {info.name} has no place in family {self.config.family}"
                )


def read_config(directory: Path) -> ModelConfig:
    """The architecture that config.json describes. Raises CheckpointError."""
    return _read(directory / CONFIG_NAME, parse_config)


def described_facts(path: Path, name: str) -> ModelFacts:
    """Sizes of the checkpoint that a config.json describes; no other file need be there. Raises
    CheckpointError."""
    return _read(path, lambda raw: config_facts(raw, name))


def _read(path: Path, parse: Callable[[dict[str, Any]], T]) -> T:
    try:
        raw = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise CheckpointDamaged(f"{path}: corrupt: {error}") from error
    try:
        return parse(raw)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def model_facts(directory: Path, name: str) -> ModelFacts:
    """Sizes of a checkpoint, from its config and headers alone. Raises CheckpointError."""
    with Checkpoint(directory) as checkpoint:
        return facts_of(
            checkpoint.config,
            checkpoint.layout,
            name=name,
            digest=_digest(checkpoint),
            disk_bytes=sum(path.stat().st_size for path in checkpoint.files.paths),
        )


def shard_tensors(directory: Path, shard: Shard) -> tuple[str, ...]:
    """Names of the checkpoint's tensors that a rank reads."""
    with Checkpoint(directory) as checkpoint:
        return _names(checkpoint, shard)


def shard_bytes(directory: Path, shard: Shard) -> int:
    """Bytes on disk that a rank reads."""
    with Checkpoint(directory) as checkpoint:
        return sum(checkpoint.files.info(name).nbytes for name in _names(checkpoint, shard))


def _names(checkpoint: Checkpoint, shard: Shard) -> tuple[str, ...]:
    return tuple(part.name for tensor in checkpoint.tensors(shard) for part in tensor.parts)


def _digest(checkpoint: Checkpoint) -> str:
    """The store's where there is one, else of config, names and sizes: that one is quick to make,
    and blind to other weights of the same shapes."""
    if (digest := checkpoint.digest()) is not None:
        return digest
    identity = hashlib.sha256()
    for name in _IDENTITY_NAMES:
        path = checkpoint.directory / name
        identity.update(path.read_bytes() if path.is_file() else b"")
    for path in checkpoint.files.paths:
        identity.update(f"{path.name}\0{path.stat().st_size}\n".encode())
    for info in checkpoint.files:
        identity.update(f"{info.name}\0{info.dtype}\0{info.shape}\0{info.offset}\n".encode())
    return "headers:" + identity.hexdigest()
