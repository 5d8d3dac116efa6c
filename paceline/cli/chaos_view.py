"""How `paceline chaos` looks on a terminal: every stream as it is written, and who was killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from paceline.cli import show
from paceline.cli.chaos import Report, Scene, Watch
from paceline.cli.listening import Listener

PAUSED_S = 0.4
BAR = 24
TAIL = 56
"""Characters of each answer that are shown: its last ones."""
KILLS_SHOWN = 8


@contextmanager
def live() -> Iterator[Watch]:
    """Draws the scene over and over, and leaves its last sight behind."""
    with Live(console=show.err, refresh_per_second=10, transient=False) as screen:
        yield lambda scene: screen.update(draw(scene))


def draw(scene: Scene) -> Group:
    return Group(_head(scene), _line(scene), Text(), _streams(scene), Text(), _killed(scene))


def told(report: Report) -> Text:
    """The report, for people."""
    style = "bold green" if report.is_unbroken else "bold red"
    words = Text()
    words.append(f"\n{report.sentence}", style=style)
    words.append(
        f"  ({report.kills} kills of a line of {report.ranks}; {report.answers} answers, "
        f"{report.tokens} tokens, each compared with the undisturbed one)\n"
    )
    words.append(
        f"pauses that clients saw: p50 {report.pause_p50_s:.1f} s, p99 {report.pause_p99_s:.1f} s"
    )
    for said in report.said[:3]:
        words.append(f"\n{said}", style="red")
    return words


def _head(scene: Scene) -> Text:
    return Text.assemble((f"{scene.wish.model}", "bold"), f"  {scene.act}")


def _line(scene: Scene) -> Text:
    colour = "green" if scene.state == "ready" else "yellow"
    words = Text.assemble("the line is ", (scene.state or "not there yet", colour))
    for runner in scene.runners:
        process = runner["pid"] or "–"
        words.append(f"   rank {runner['rank']} on {runner['node']}: process {process}")
    return words


def _streams(scene: Scene) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(min_width=BAR, no_wrap=True)
    table.add_column(min_width=12, no_wrap=True)
    table.add_column(no_wrap=True, overflow="crop")
    now = time.monotonic()
    most = max(scene.expected, default=0) or max(
        (len(one.reply.token_ids) for one in scene.listeners), default=1
    )
    for listener in scene.listeners:
        done = len(listener.reply.token_ids)
        filled = round(BAR * done / max(most, 1))
        bar = Text("━" * filled, style="cyan") + Text("╌" * (BAR - filled), style="dim")
        text = listener.text.replace("\n", " ")[-TAIL:]
        table.add_row(bar, _state(listener, now), Text(text, style="dim"))
    return table


def _state(listener: Listener, now: float) -> Text:
    if listener.error:
        return Text("error", style="bold red")
    if not listener.goes_on:
        return Text("done", style="green")
    silent_s = now - listener.heard_at[-1] if listener.heard_at else 0.0
    if silent_s > PAUSED_S:
        return Text(f"paused {silent_s:.1f} s", style="yellow")
    return Text(f"{len(listener.reply.token_ids)} tokens")


def _killed(scene: Scene) -> Text:
    words = Text(f"killed {len(scene.killed)} of {scene.wish.kills}", style="bold")
    for who in scene.killed[-KILLS_SHOWN:]:
        words.append(f"   {who}", style="red")
    return words
