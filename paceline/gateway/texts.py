"""The small files of a checkpoint that is not on this machine: tokenizer, config, chat template."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from paceline.checkpoint.progress import Progress
from paceline.checkpoint.store import Store
from paceline.checkpoint.wanted import text_steps
from paceline.transport.fetch import fetch_checkpoint
from paceline.transport.keys import KeyPair
from paceline.types.errors import DeadlineExceeded
from paceline.types.weights import ModelSources

WITHIN_S = 30.0


def bring_texts(store: Store, keys: KeyPair) -> Callable[[ModelSources], Path]:
    """`keys` prove a member of the cluster. What it gives raises NobodyGives, DeadlineExceeded or
    CheckpointError."""

    def bring(model: ModelSources) -> Path:
        until = time.monotonic() + WITHIN_S

        def mind(progress: Progress) -> None:
            if time.monotonic() > until:
                raise DeadlineExceeded(
                    f"the tokenizer of {model.model} was not here within {WITHIN_S:.0f} s "
                    f"({progress.note}); what has come is kept: try again"
                )

        steps = text_steps()
        return fetch_checkpoint(store, model.model, model.digest, steps, model.sources, keys, mind)

    return bring
