"""The peers' table as a picture: bars for each kind of work, one colour for what is ours."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from benchmarks.processes import ROOT
from benchmarks.statistics import Figure, figure

PICTURE = ROOT / "docs" / "performance.svg"

WIDTH, LABELS, VALUES = 720, 150, 70
BAR, GAP, HEAD = 16, 6, 34
OURS, THEIRS, INK, FAINT = "#1f77b4", "#b8bec6", "#24292f", "#6e7781"


def draw(data: Mapping[str, Any]) -> None:
    """From the data of the part `peers`, into docs/."""
    PICTURE.write_text(svg({row["name"]: row["rates"] for row in data["systems"]}))


def svg(rates: Mapping[str, Mapping[str, list[float]]]) -> str:
    """One panel for each kind of work, one bar for each system, with the rounds' spread."""
    kinds = list(next(iter(rates.values()), {}))
    panels, top = [], 0
    for kind in kinds:
        figures = {name: figure(found[kind]) for name, found in rates.items()}
        panels.append(_panel(kind, figures, top))
        top += HEAD + len(figures) * (BAR + GAP)
    body = "".join(panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top + GAP}" '
        f'font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{body}</svg>\n'
    )


def _panel(kind: str, figures: Mapping[str, Figure], top: int) -> str:
    longest = max(found.high for found in figures.values())
    scale = (WIDTH - LABELS - VALUES) / longest
    title = f"{kind}, tokens per second"
    drawn = [f'<text x="4" y="{top + 22}" fill="{INK}" font-weight="bold">{escape(title)}</text>']
    for place, (name, found) in enumerate(figures.items()):
        y = top + HEAD + place * (BAR + GAP)
        middle, end = y + BAR / 2, LABELS + scale * found.median
        low, high = LABELS + scale * found.low, LABELS + scale * found.high
        colour = OURS if name.startswith("Paceline") else THEIRS
        drawn.append(
            f'<text x="{LABELS - 6}" y="{middle + 4}" text-anchor="end" fill="{INK}">'
            f"{escape(name)}</text>"
            f'<rect x="{LABELS}" y="{y}" width="{end - LABELS:.1f}" height="{BAR}" '
            f'fill="{colour}"/>'
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="{INK}"/>'
            f'<text x="{high + 6:.1f}" y="{middle + 4}" fill="{FAINT}">{found.median:.0f}</text>'
        )
    return "".join(drawn)
