"""docs/lifecycle.md is what the tables say."""

from __future__ import annotations

import difflib
import subprocess
import sys
from pathlib import Path

from paceline.lifecycle.describe import describe

DOCUMENT = Path(__file__).parents[2] / "docs" / "lifecycle.md"


def test_the_document_is_generated_from_the_tables() -> None:
    written = DOCUMENT.read_text(encoding="utf-8").splitlines()
    said = describe().splitlines()
    difference = [
        line for line in difflib.unified_diff(written, said, "docs", "tables", lineterm="", n=0)
    ]
    assert not difference, "\n".join(
        ["run `python -m paceline.lifecycle > docs/lifecycle.md` if this is meant:", *difference]
    )


def test_the_module_prints_the_document() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "paceline.lifecycle"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == describe()
