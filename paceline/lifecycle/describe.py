"""The machines as Markdown with Mermaid diagrams: `python -m paceline.lifecycle`."""

from __future__ import annotations

from collections.abc import Iterator

from paceline.lifecycle.instance import INSTANCE
from paceline.lifecycle.machine import E, Machine, S
from paceline.lifecycle.runner import PROGRESS, RUNNER, STARTS
from paceline.lifecycle.task import TASK

_HEAD = """# Lifecycle

Three state machines, each a table in `paceline/lifecycle`. This file is generated from them:
`python -m paceline.lifecycle > docs/lifecycle.md`; a test compares the two.

What a table does not hold is rejected with the state found, the event, and the states that accept
it. Nothing is raised, and nothing changes.
"""

_MAILBOX = """## A task that knocks

`verdict` looks at the state found, the task's kind and both epochs. An epoch older than the newest
one the runner has accepted is refused, whatever the kind. A task that is not accepted now is
*parked* where the runner's own progress leads to a state that accepts it, and refused elsewhere.
A connect needs a newer epoch where a line is joined already; a warm-up belongs to the epoch of the
line, and one of a newer epoch is parked.
"""


def describe() -> str:
    """The whole document."""
    parts = [
        _HEAD,
        _section(RUNNER),
        _section(TASK),
        _section(INSTANCE),
        _MAILBOX,
        "\n".join(_mailbox_rows()) + "\n",
    ]
    return "\n".join(parts)


def diagram(machine: Machine[S, E]) -> str:
    """A Mermaid state diagram; the events between the same two states share an arrow."""
    lines = ["stateDiagram-v2", f"    [*] --> {machine.start}"]
    for state in machine.states:
        arrows: dict[S, list[str]] = {}
        for event, after in machine.table[state].items():
            arrows.setdefault(after, []).append(event)
        lines += [f"    {state} --> {after}: {', '.join(on)}" for after, on in arrows.items()]
    lines += [f"    {state} --> [*]" for state in machine.states if _is_end(machine, state)]
    return "\n".join(lines)


def _is_end(machine: Machine[S, E], state: S) -> bool:
    return all(after is state for after in machine.table[state].values())


def _section(machine: Machine[S, E]) -> str:
    rows = [
        f"| `{event}` | {machine.meaning[event]} | {_in_order(machine, event)} |"
        for event in machine.events
    ]
    table = "\n".join(["| event | says | accepted in |", "|---|---|---|", *rows])
    title = machine.name.capitalize()
    return f"## {title}\n\n```mermaid\n{diagram(machine)}\n```\n\n{table}\n"


def _in_order(machine: Machine[S, E], event: E) -> str:
    accepted = machine.accepted_in(event)
    return ", ".join(state for state in machine.states if state in accepted)


def _mailbox_rows() -> Iterator[str]:
    yield "| task | begins with | accepted in | parked in |"
    yield "|---|---|---|---|"
    for kind, event in STARTS.items():
        accepted = RUNNER.accepted_in(event)
        parked = [
            state
            for state in RUNNER.states
            if state not in accepted and RUNNER.reached_by(state, PROGRESS) & accepted
        ]
        names = ", ".join(parked) or "–"
        yield f"| {kind} | `{event}` | {_in_order(RUNNER, event)} | {names} |"
