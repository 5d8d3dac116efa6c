"""What a part found: tables for people, numbers for machines, and the places in docs for both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table as Drawn

from benchmarks.processes import ROOT
from benchmarks.statistics import Figure

DOCUMENT = ROOT / "docs" / "performance.md"
NUMBERS = ROOT / "docs" / "performance.json"

console = Console(highlight=False)


class Table(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    """Sentences below it; what failed is here."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    tables: tuple[Table, ...]
    data: Any
    """All numbers behind the tables, JSON-ready."""


def show(tables: Sequence[Table]) -> None:
    for table in tables:
        drawn = Drawn(box=None, pad_edge=False, header_style="bold")
        for title in table.columns:
            drawn.add_column(title, overflow="fold")
        for row in table.rows:
            drawn.add_row(*row)
        console.print(f"\n[bold]{table.title}[/bold]")
        console.print(drawn)
        for note in table.notes:
            console.print(note, markup=False)


def markdown(tables: Sequence[Table]) -> str:
    return "\n\n".join(_markdown(table) for table in tables)


def _markdown(table: Table) -> str:
    lines = [table.columns, ("---",) * len(table.columns), *table.rows]
    drawn = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "".join(f"\n\n{note}" for note in table.notes)
    return f"**{table.title}**\n\n{drawn}{notes}"


def fill(text: str, part: str, filling: str) -> str:
    """The text with what is between a part's markers replaced. Raises ValueError without them."""
    begin, end = f"<!-- {part} -->", f"<!-- /{part} -->"
    filled, count = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}",
        lambda _: f"{begin}\n{filling}\n{end}",
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(f"{begin} … {end} is there {count} times")
    return filled


def keep(results: dict[str, Result], machine: dict[str, Any]) -> None:
    """Into docs: each part's tables and numbers take the place of its last ones."""
    known = msgspec.json.decode(NUMBERS.read_bytes()) if NUMBERS.exists() else {}
    text = DOCUMENT.read_text()
    for part, result in results.items():
        known[part] = {"machine": machine, "numbers": result.data}
        text = fill(text, part, markdown(result.tables))
    DOCUMENT.write_text(text)
    NUMBERS.write_bytes(msgspec.json.format(msgspec.json.encode(known), indent=1) + b"\n")


# --- cells ---------------------------------------------------------------------------------------


def rate(found: Figure) -> str:
    """A median and its spread."""
    digits = 1 if found.median < 100 else 0
    return f"{found.median:.{digits}f} ({found.low:.{digits}f}–{found.high:.{digits}f})"


def times(found: Figure) -> str:
    """A ratio and its spread."""
    return f"{found.median:.2f} ({found.low:.2f}–{found.high:.2f})"


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def mib(count: float) -> str:
    return f"{count / 2**20:.0f} MiB"


def percent(part: float) -> str:
    return f"{100 * part:.0f} %"


def failures(failed: dict[str, str]) -> tuple[str, ...]:
    """A sentence for each system that is not in a table."""
    return tuple(f"Not run: {name}: {' '.join(why.split())[-300:]}" for name, why in failed.items())
