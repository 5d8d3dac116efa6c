"""The control groups that this process is in, innermost first: versions 1 and 2 of cgroups(7)."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def levels(controller: str, membership: Path = MEMBERSHIP, root: Path = ROOT) -> list[Path]:
    """The directories of `controller` (and of the unified hierarchy) from ours to the root.

    In a container the named path may not exist while its root is ours; what does not exist is
    left out.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    found: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controller if controllers else root
        inner = PurePosixPath(path).relative_to("/")
        found += [top / part for part in (inner, *inner.parents) if (top / part).is_dir()]
    return list(dict.fromkeys(found))


def number(path: Path) -> int | None:
    """The whole number that the file holds; None for "max", or when there is no such file."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def field(path: Path, key: str) -> int | None:
    """The number beside `key` in a file of `key number` lines; None when it is not there."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.replace(":", " ").split()
        if len(words) >= 2 and words[0] == key:
            return int(words[1])
    return None
