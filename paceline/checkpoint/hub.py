"""A checkpoint from a Hugging Face repository, downloaded by huggingface_hub in a child process."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from paceline.checkpoint.cards import HubSource
from paceline.checkpoint.manifest import sha256_file
from paceline.checkpoint.progress import OnProgress, Progress
from paceline.checkpoint.watched import Failed, Limits, run_watched
from paceline.types.errors import CheckpointError

_LIST_LIMITS = Limits(stall_s=8.0, total_s=8.0)
_FETCH_LIMITS = Limits(stall_s=60.0, total_s=24 * 3600.0)

_CHILD = str(Path(__file__).with_name("hub_child.py"))
_CHILD_ENV = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
}
"""Plain HTTP resumes from the bytes on disk and shows them growing; Xet does neither."""

_COMMIT = re.compile(r"[0-9a-f]{40,64}")

_WANTED_NAMES = frozenset({
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "model.safetensors.index.json",
})  # fmt: skip


class HubFile(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    size: int
    sha256: str | None
    """The hub states it for large files only."""


class HubListing(msgspec.Struct, frozen=True, kw_only=True):
    commit: str
    files: tuple[HubFile, ...]


def fetch_repository(source: HubSource, into: Path, on_progress: OnProgress) -> Path:
    """Download what makes a checkpoint into `into`, verified; returns the directory.

    Raises CheckpointError: within seconds when the hub is out of reach.
    """
    on_progress(Progress("hub", 0, None, f"asking for {source.repo}"))
    try:
        listing = _list(source, into)
        wanted = [file for file in listing.files if is_wanted(file.name)]
        if not any(file.name.endswith(".safetensors") for file in wanted):
            raise Failed("the repository has no safetensors files at its top level")
        directory = into / listing.commit
        directory.mkdir(exist_ok=True)
        _fetch(source, listing.commit, wanted, directory, on_progress)
    except Failed as failure:
        raise CheckpointError(f"{source.repo}: {failure}") from failure
    for file in wanted:
        _verify(directory / file.name, source.sha256.get(file.name, file.sha256), on_progress)
    return directory


def is_wanted(name: str) -> bool:
    """Top-level files that a checkpoint consists of; weights in other formats are not."""
    return name in _WANTED_NAMES or ("/" not in name and name.endswith(".safetensors"))


def _list(source: HubSource, into: Path) -> HubListing:
    output = run_watched(
        _CHILD,
        "list",
        source.repo,
        source.revision,
        limits=_LIST_LIMITS,
        watch=into,
        env=_CHILD_ENV,
        report=Progress("hub", 0, None, f"asking for {source.repo}"),
    )
    try:
        listing = msgspec.json.decode(output, type=HubListing)
    except msgspec.DecodeError as error:
        raise Failed(f"the answer makes no sense: {error}") from error
    if not _COMMIT.fullmatch(listing.commit):
        raise Failed(f"the answer names no commit, but {listing.commit!r:.80}")
    return listing


def _fetch(
    source: HubSource,
    commit: str,
    files: list[HubFile],
    directory: Path,
    on_progress: OnProgress,
) -> None:
    total = sum(file.size for file in files)
    wanted = [f"{file.size}:{file.name}" for file in files]
    run_watched(
        _CHILD,
        "fetch",
        source.repo,
        commit,
        str(directory),
        *wanted,
        limits=_FETCH_LIMITS,
        watch=directory,
        env=_CHILD_ENV,
        report=Progress("hub", 0, total, f"downloading {source.repo}"),
        on_progress=on_progress,
    )


def _verify(file: Path, expected: str | None, on_progress: OnProgress) -> None:
    if expected is None:
        return
    found = sha256_file(file, on_progress)
    if found != expected:
        file.unlink()
        raise CheckpointError(
            f"{file.name}: SHA-256 is {found}, but {expected} was expected; it was removed"
        )
