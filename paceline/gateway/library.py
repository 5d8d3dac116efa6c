"""What the gateway needs of a served model: its tokenizer, chat template and sizes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from paceline.checkpoint.chat import ChatTemplate
from paceline.checkpoint.facts import read_config
from paceline.checkpoint.manifest import MANIFEST_NAME
from paceline.checkpoint.store import Store
from paceline.checkpoint.tokenizer import Tokenizer
from paceline.types.weights import ModelSources

MAX_MODELS = 8


@dataclass(frozen=True, slots=True)
class ModelText:
    name: str
    tokenizer: Tokenizer
    template: ChatTemplate | None
    vocab_size: int
    """Of the tokenizer or of the model's table, whichever is smaller: ids that are in both."""
    max_context: int

    @classmethod
    def load(cls, name: str, directory: Path) -> ModelText:
        """Raises CheckpointError."""
        config = read_config(directory)
        tokenizer = Tokenizer.load(directory)
        return cls(
            name=name,
            tokenizer=tokenizer,
            template=ChatTemplate.load(directory),
            vocab_size=min(tokenizer.vocab_size, config.vocab_size),
            max_context=config.max_context,
        )


Bring = Callable[[ModelSources], Path]
"""Gives the directory of a checkpoint, with its small files fetched if they are not here. Blocks,
but not for long."""


class Library:
    """Models by name, loaded when first asked for and again when the checkpoint is another."""

    def __init__(self, store: Store, bring: Bring) -> None:
        self._store = store
        self._bring = bring
        self._sources: dict[str, ModelSources] = {}
        self._loaded: OrderedDict[str, tuple[str, ModelText]] = OrderedDict()
        self._loading = asyncio.Lock()

    def heed(self, models: Iterable[ModelSources]) -> None:
        """Which checkpoints the cluster's models are, and who has them."""
        self._sources = {each.model: each for each in models}

    async def open(self, name: str) -> ModelText:
        """Raises NotFound or CheckpointError, and Unavailable or DeadlineExceeded where the files
        have to come from other nodes and do not."""
        known = self._loaded.get(name)
        if known is None or known[0] != self._version(name):
            async with self._loading:
                known = await self._load(name)
        self._loaded.move_to_end(name)
        return known[1]

    async def _load(self, name: str) -> tuple[str, ModelText]:
        version, known = self._version(name), self._loaded.get(name)
        if known is not None and known[0] == version:
            return known
        text = await asyncio.to_thread(self._read, name)
        known = self._loaded[name] = (version, text)
        if len(self._loaded) > MAX_MODELS:
            self._loaded.popitem(last=False)
        return known

    def _version(self, name: str) -> str:
        if name in self._sources:
            return self._sources[name].digest
        return str((self._store.path(name) / MANIFEST_NAME).stat().st_mtime_ns)

    def _read(self, name: str) -> ModelText:
        sources = self._sources.get(name)
        directory = self._bring(sources) if sources else self._store.path(name)
        return ModelText.load(name, directory)
