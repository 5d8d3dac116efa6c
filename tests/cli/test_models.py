"""What the store holds, as people are shown it."""

from __future__ import annotations

from pathlib import Path

from paceline.checkpoint import Store
from paceline.checkpoint.manifest import MANIFEST_NAME
from paceline.cli.models import list_models
from paceline.process.home import Home


def test_a_damaged_model_is_told_beside_the_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("broken", "whole"):
        with store.staging(name) as staged:
            (staged / "config.json").write_text("{}")
            store.adopt(staged, name, "a test")
    (store.path("broken") / MANIFEST_NAME).write_text("{")
    broken, whole, *_ = list_models(Home(tmp_path))
    assert (broken["name"], broken["bytes"]) == ("broken", None)
    assert broken["source"].startswith("damaged: ")
    assert (whole["name"], whole["bytes"], whole["source"]) == ("whole", 2, "a test")
