"""What happened, told by the logs of all processes together, in order."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.support.cluster import LocalCluster, read_lines

Line = dict[str, Any]


class Told(NamedTuple):
    """One line that a story must have: whose log it is in, what it says, and whom it must name."""

    role: str
    says: dict[str, Any]
    names: tuple[str, ...]
    contains: str = ""
    """Words in the line's sentence, reason or why."""


def lines_since(cluster: LocalCluster, timestamp: str) -> list[Line]:
    """Every line of every structured log from that moment on (ISO, UTC), in order of time."""
    logs = cluster.home.logs.glob("*.log")
    every = [line for path in logs for line in read_lines(path)]
    return sorted(
        (line for line in every if line["timestamp"] >= timestamp),
        key=lambda line: line["timestamp"],
    )


def missing(story: list[Told], lines: list[Line]) -> str:
    """Empty if the lines tell the story: each of its lines is there, the later not before the
    earlier, and names whom it must; else a sentence about the first that is not."""
    rest = iter(lines)
    told: list[str] = []
    for part in story:
        found = next((line for line in rest if _fits(part, line)), None)
        if found is None:
            return f"after {told or 'nothing'} no line of {part.role} says {part.says}"
        if unnamed := [name for name in part.names if name not in found]:
            return f"{found} does not name its {', '.join(unnamed)}"
        told.append(f"{part.role}: {found['event']}")
    return ""


def _fits(part: Told, line: Line) -> bool:
    words = " ".join(str(line.get(key, "")) for key in ("sentence", "reason", "why"))
    said = all(line.get(key) == value for key, value in part.says.items())
    return line["role"] == part.role and said and part.contains in words
