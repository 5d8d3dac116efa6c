"""The local store at the command line: models, pull, import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TransferSpeedColumn,
)

from paceline.checkpoint import Progress as Report
from paceline.checkpoint import Store, cards, import_dir, import_gguf, pull
from paceline.checkpoint.pull import is_stored
from paceline.cli import show
from paceline.process.home import Home
from paceline.types.errors import CheckpointError

T = TypeVar("T")


def ensure_model(name: str, home: Home) -> Path:
    """Directory of the model, pulled with a progress bar if it is not in the store yet."""
    store = Store(home.path)
    if is_stored(name, store, cards().get(name)):
        return store.path(name)
    return with_progress(name, lambda report: pull(name, store, report))


def import_path(path: Path, name: str | None, home: Home) -> Path:
    """A GGUF file or a Hugging Face directory, as a checkpoint of the store."""
    take = import_dir if path.is_dir() else import_gguf
    return with_progress(
        name or path.name, lambda report: take(path, Store(home.path), name, report)
    )


def with_progress(name: str, work: Callable[[Callable[[Report], None]], T]) -> T:
    """Draw what `work` reports on stderr; plain sentences where that is no terminal."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=show.err,
        transient=True,
        disable=not show.err.is_terminal,
    )
    with bar:
        drawn = bar.add_task(name, total=None)
        last_note = ""

        def report(progress: Report) -> None:
            nonlocal last_note
            bar.update(
                drawn,
                description=f"{name}: {progress.stage}",
                completed=progress.done_bytes,
                total=progress.total_bytes,
            )
            if progress.note and progress.note != last_note:
                last_note = progress.note
                show.err.print(progress.note, markup=False)

        return work(report)


def list_models(home: Home) -> list[show.Row]:
    """What is in the store, then what could be pulled."""
    store = Store(home.path)
    stored = [_stored(name, store) for name in store.names()]
    names = {row["name"] for row in stored}
    offered: list[show.Row] = [
        {"name": name, "stored": False, "bytes": None, "source": "`paceline pull` fetches it"}
        for name in sorted(cards())
        if name not in names
    ]
    return stored + offered


def _stored(name: str, store: Store) -> show.Row:
    try:
        manifest = store.manifest(name)
    except CheckpointError as error:
        return {"name": name, "stored": True, "bytes": None, "source": f"damaged: {error}"}
    return {
        "name": name,
        "stored": True,
        "bytes": manifest.total_bytes,
        "source": manifest.source,
    }


MODELS: list[show.Column] = [
    ("MODEL", show.text("name")),
    ("STORED", lambda row: "yes" if row["stored"] else "no"),
    ("SIZE", show.size("bytes")),
    ("SOURCE", show.text("source")),
]
