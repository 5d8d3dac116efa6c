"""What the gateway needs of a served model: its tokenizer, chat template and sizes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from paceline.checkpoint.chat import ChatTemplate
from paceline.checkpoint.facts import read_config
from paceline.checkpoint.manifest import MANIFEST_NAME
from paceline.checkpoint.store import Store
from paceline.checkpoint.tokenizer import Tokenizer

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


class Library:
    """Models by name, loaded when first asked for and again when the checkpoint was replaced."""

    def __init__(self, home: Path) -> None:
        self._store = Store(home)
        self._loaded: OrderedDict[str, tuple[int, ModelText]] = OrderedDict()
        self._loading = asyncio.Lock()

    async def open(self, name: str) -> ModelText:
        """Raises NotFound or CheckpointError."""
        async with self._loading:
            directory = self._store.path(name)
            version = (directory / MANIFEST_NAME).stat().st_mtime_ns
            known = self._loaded.get(name)
            if known is None or known[0] != version:
                text = await asyncio.to_thread(ModelText.load, name, directory)
                known = self._loaded[name] = (version, text)
            self._loaded.move_to_end(name)
            if len(self._loaded) > MAX_MODELS:
                self._loaded.popitem(last=False)
            return known[1]
