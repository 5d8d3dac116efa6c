"""The real default model for tests, fetched once per machine the way a user fetches it."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from paceline.checkpoint.cards import DEFAULT_MODEL
from paceline.checkpoint.pull import pull
from paceline.checkpoint.store import Store


@cache
def smollm2_dir() -> Path:
    """Checkpoint directory of smollm2-135m-instruct; several processes may ask at once.

    It is kept in PACELINE_TEST_HOME, by default ~/.cache/paceline-tests. Treat it as read-only.
    """
    default = Path.home() / ".cache" / "paceline-tests"
    return pull(DEFAULT_MODEL, Store(Path(os.environ.get("PACELINE_TEST_HOME", default))))
