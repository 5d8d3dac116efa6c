"""How things look on a terminal: tables and sentences of what the API answers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from paceline.planner import human_bytes

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]


quiet = False
"""Set by --json: nothing but the one object goes to stdout."""


def answer(text: str) -> None:
    """A piece of a streamed answer, at once and unchanged."""
    if text and not quiet:
        sys.stdout.write(text)
        sys.stdout.flush()


def as_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def table(columns: Sequence[Column], rows: Sequence[Row], empty: str) -> None:
    if not rows:
        out.print(empty)
        return
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for title, _ in columns:
        drawn.add_column(title, overflow="fold")
    for row in rows:
        drawn.add_row(*(cell(row) for _, cell in columns))
    out.print(drawn)


def layers(runner: Row) -> str:
    start, stop = runner["layers"]
    return f"{start}–{stop - 1}"


def epoch(value: Any) -> str:
    return f"{value[0]}.{value[1]}" if value else "–"


def size(key: str) -> Callable[[Row], str]:
    return lambda row: "–" if row.get(key) is None else human_bytes(row[key])


def text(key: str) -> Callable[[Row], str]:
    return lambda row: "–" if row.get(key) is None else str(row[key])


def seconds(count: float) -> str:
    return f"{count:.2f} s" if count >= 1 else f"{1000 * count:.2f} ms"


def _line(instance: Row) -> str:
    return " → ".join(
        f"{r['node']}[{layers(r)}]" for r in sorted(instance["runners"], key=lambda r: r["rank"])
    )


INSTANCES: Sequence[Column] = (
    ("INSTANCE", text("id")),
    ("MODEL", text("model")),
    ("STATE", text("state")),
    ("EPOCH", lambda row: epoch(row["epoch"])),
    ("RANKS", text("world_size")),
    ("LINE", _line),
)

RUNNERS: Sequence[Column] = (
    ("RANK", text("rank")),
    ("NODE", text("node")),
    ("LAYERS", layers),
    ("STATE", text("state")),
    ("RUNNER", text("id")),
    ("PID", text("pid")),
    ("MEMORY", size("memory_bytes")),
)

NODES: Sequence[Column] = (
    ("NODE", text("name")),
    ("STATE", lambda row: row["state"] + (", drained" if row["drained"] else "")),
    ("CPUS", text("cpus")),
    ("MEMORY", size("memory_bytes")),
    ("RESERVED", size("reserved_bytes")),
    ("RUNNERS", lambda row: str(len(row["runners"]))),
    ("HOST", text("host")),
)

SEATS: Sequence[Column] = (
    ("RANK", text("rank")),
    ("NODE", text("node")),
    ("LAYERS", lambda row: f"{row['shard']['start']}–{row['shard']['stop'] - 1}"),
    ("WEIGHTS", size("weight_bytes")),
    ("KV", size("kv_bytes")),
    ("MEMORY", size("memory_bytes")),
    ("FREE", size("free_bytes")),
    ("STAGE", lambda row: "–" if row.get("stage_s") is None else seconds(row["stage_s"])),
    ("HOP", lambda row: seconds(row["hop_s"]) if row.get("hop_s") else "–"),
)


def line(text: str) -> None:
    """One line, however long: whoever reads it by lines gets it whole."""
    out.print(text, markup=False, soft_wrap=True)


def sentences(lines: Sequence[str], indent: str = "  ") -> None:
    for each in lines:
        line(f"{indent}{each}")


def event_line(event: Row) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(event["at"]))
    return f"{clock}  {event['kind']:<12} {event['sentence']}"
