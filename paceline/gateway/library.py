"""What the gateway needs of a served model: its tokenizer, chat template and sizes."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from paceline.checkpoint.chat import ChatTemplate
from paceline.checkpoint.facts import read_config
from paceline.checkpoint.manifest import MANIFEST_NAME
from paceline.checkpoint.store import Store
from paceline.checkpoint.tokenizer import Tokenizer
from paceline.types.weights import ModelSources

MAX_MODELS = 8
MAX_NAMED = 1024
"""Models whose sources are kept: those that were named last."""
FAILED_S = 2.0
"""How long a failure is the answer, as long as the sources are the same."""


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


class _Failure(NamedTuple):
    sources: ModelSources | None
    until: float
    error: BaseException


class Library:
    """Models by name, loaded when first asked for and again when the checkpoint is another."""

    def __init__(
        self, store: Store, bring: Bring, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._bring = bring
        self._clock = clock
        # Of its own: models whose sources are silent keep no prompt waiting for a thread.
        self._readers = ThreadPoolExecutor(MAX_MODELS, "library")
        self._sources: OrderedDict[str, ModelSources] = OrderedDict()
        self._loaded: OrderedDict[str, tuple[str, ModelText]] = OrderedDict()
        self._loading: dict[tuple[str, str], asyncio.Future[ModelText]] = {}
        """By name and version: one model that does not come holds up no other."""
        self._failed: dict[str, _Failure] = {}

    def heed(self, models: Iterable[ModelSources]) -> None:
        """Which checkpoints the cluster's models are, and who has them."""
        # One that is not named is not gone: the controller may be unable to read it just now.
        for each in models:
            self._sources[each.model] = each
            self._sources.move_to_end(each.model)
        while len(self._sources) > MAX_NAMED:
            forgotten, _ = self._sources.popitem(last=False)
            self._failed.pop(forgotten, None)

    async def open(self, name: str) -> ModelText:
        """Whoever stops waiting ends no load. Raises NotFound or CheckpointError, and Unavailable
        or DeadlineExceeded where the files have to come from other nodes and do not."""
        version = self._version(name)
        known = self._loaded.get(name)
        if known is None or known[0] != version:
            return await asyncio.shield(self._load(name, version))
        self._loaded.move_to_end(name)
        return known[1]

    def close(self) -> None:
        """Begins no more reads. The process ends when those under way have."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _load(self, name: str, version: str) -> asyncio.Future[ModelText]:
        """The one that is under way, or a new one unless the last has just failed."""
        loading = self._loading.get((name, version))
        if loading is not None:
            return loading
        sources, failed = self._sources.get(name), self._failed.get(name)
        if failed is not None and failed.sources == sources and self._clock() < failed.until:
            raise failed.error.with_traceback(None)
        loop = asyncio.get_running_loop()
        loading = loop.run_in_executor(self._readers, self._read, name, sources)
        self._loading[name, version] = loading
        loading.add_done_callback(lambda task: self._learn(name, version, sources, task))
        return loading

    def _learn(
        self,
        name: str,
        version: str,
        sources: ModelSources | None,
        loading: asyncio.Future[ModelText],
    ) -> None:
        del self._loading[name, version]
        self._failed.pop(name, None)
        if loading.cancelled():
            return
        if (error := loading.exception()) is not None:
            self._failed[name] = _Failure(sources, self._clock() + FAILED_S, error)
            return
        self._loaded[name] = (version, loading.result())
        self._loaded.move_to_end(name)
        if len(self._loaded) > MAX_MODELS:
            self._loaded.popitem(last=False)

    def _version(self, name: str) -> str:
        if name in self._sources:
            return self._sources[name].digest
        return str((self._store.path(name) / MANIFEST_NAME).stat().st_mtime_ns)

    def _read(self, name: str, sources: ModelSources | None) -> ModelText:
        directory = self._bring(sources) if sources else self._store.path(name)
        return ModelText.load(name, directory)
