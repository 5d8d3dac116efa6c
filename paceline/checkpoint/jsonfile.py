"""The small JSON files of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from paceline.types.errors import CheckpointDamaged, CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError, naming the file;
    CheckpointDamaged for one that holds none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise CheckpointDamaged(f"{path}: not a JSON object: {error}") from error


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
