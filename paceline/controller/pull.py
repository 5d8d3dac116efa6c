"""`python -m paceline.controller.pull NAME --home DIR`: brings a model here, in a process of its
own. Says how far it is as JSON lines on stdout; on failure the last line holds the reason."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import msgspec

from paceline.checkpoint.progress import Progress
from paceline.checkpoint.pull import pull
from paceline.checkpoint.store import Store
from paceline.process.child import PARENT_GONE, watch_parent
from paceline.types.errors import PacelineError

MAX_FAILURE = 400
"""Characters: a line must fit into what its parent keeps of one."""


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of output."""

    stage: str = ""
    done_bytes: int = 0
    total_bytes: int | None = None
    failure: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m paceline.controller.pull")
    parser.add_argument("name")
    parser.add_argument("--home", type=Path, required=True)
    options = parser.parse_args()
    watch_parent(lambda: os._exit(PARENT_GONE))
    try:
        pull(options.name, Store(options.home), _say_progress)
    except PacelineError as error:
        _say(Report(failure=str(error)[:MAX_FAILURE]))
        return 1
    return 0


def _say_progress(progress: Progress) -> None:
    _say(
        Report(
            stage=progress.stage,
            done_bytes=progress.done_bytes,
            total_bytes=progress.total_bytes,
        )
    )


def _say(report: Report) -> None:
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
