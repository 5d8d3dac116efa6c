"""What this process runs on, without importing any of it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from paceline import __version__
from paceline.types.join import Versions


def versions() -> Versions:
    return Versions(paceline=__version__, python=platform.python_version(), ray=_installed("ray"))


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
