"""A checkpoint opened as a whole, and what others ask of it: its sizes, and a shard's bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from paceline.checkpoint.architecture import ModelConfig
from paceline.checkpoint.families import parse_config
from paceline.checkpoint.layout import Layout, Tensor
from paceline.checkpoint.manifest import MANIFEST_NAME, read_manifest
from paceline.checkpoint.tensors import TensorFiles
from paceline.types.errors import CheckpointError
from paceline.types.model import ModelFacts, Shard

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
    path = directory / CONFIG_NAME
    return _parsed(path, _read_json(path))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path}: corrupt: {error}") from error


def _parsed(path: Path, raw: dict[str, Any]) -> ModelConfig:
    try:
        return parse_config(raw)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def model_facts(directory: Path, name: str) -> ModelFacts:
    """Sizes of a checkpoint, from its config and headers alone. Raises CheckpointError."""
    with Checkpoint(directory) as checkpoint:
        disk_bytes = sum(path.stat().st_size for path in checkpoint.files.paths)
        config, layout = checkpoint.config, checkpoint.layout
        return _facts(config, layout, name, _digest(checkpoint), disk_bytes)


def config_facts(path: Path, name: str) -> ModelFacts:
    """Sizes of a checkpoint of which there is nothing but its config.json: what it would be on
    disk in the dtype that the config names. Raises CheckpointError."""
    raw = _read_json(path)
    config = _parsed(path, raw)
    dtype = str(raw.get("dtype") or raw.get("torch_dtype") or "float32")
    if dtype not in _DTYPE_BYTES:
        known = ", ".join(_DTYPE_BYTES)
        raise CheckpointError(f"{path}: dtype {dtype!r} is not known; known are {known}")
    facts = _facts(config, Layout(config, _AllNames()), name, f"config:{path}", 0)
    shared = facts.head_params if config.tied else 0
    params = sum(facts.layer_params) + facts.embed_params + facts.head_params - shared
    return msgspec.structs.replace(facts, disk_bytes=params * _DTYPE_BYTES[dtype])


_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class _AllNames:
    """The tensors of a checkpoint that is not there: whichever is asked for."""

    def __contains__(self, name: object) -> bool:
        return True


def _facts(
    config: ModelConfig, layout: Layout, name: str, digest: str, disk_bytes: int
) -> ModelFacts:
    return ModelFacts(
        name=name,
        family=config.family,
        digest=digest,
        disk_bytes=disk_bytes,
        layer_params=tuple(_params(layout.layer(i).values()) for i in range(len(config.layers))),
        embed_params=_params(layout.embedding().values()),
        head_params=_params(layout.head().values()),
        tied=config.tied,
        width=config.width,
        vocab_size=config.vocab_size,
        kv_width=config.kv_width,
        max_context=config.max_context,
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


def _params(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.params for tensor in tensors)


def _digest(checkpoint: Checkpoint) -> str:
    """The store's where there is one, else of config, names and sizes: that one is quick to make,
    and blind to other weights of the same shapes."""
    if (checkpoint.directory / MANIFEST_NAME).is_file():
        return read_manifest(checkpoint.directory).digest
    identity = hashlib.sha256()
    for name in _IDENTITY_NAMES:
        path = checkpoint.directory / name
        identity.update(path.read_bytes() if path.is_file() else b"")
    for path in checkpoint.files.paths:
        identity.update(f"{path.name}\0{path.stat().st_size}\n".encode())
    for info in checkpoint.files:
        identity.update(f"{info.name}\0{info.dtype}\0{info.shape}\0{info.offset}\n".encode())
    return "headers:" + identity.hexdigest()
