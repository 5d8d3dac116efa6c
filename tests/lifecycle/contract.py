"""What the three machines are agreed to do, written down a second time and apart from the tables.

One line per entry. Who changes a table changes this file too, and a reviewer sees both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from paceline.lifecycle import Accept, Machine, Park, verdict
from paceline.types.ids import Epoch
from paceline.types.states import RunnerState

RUNNER = """
idle --fetch_started--> fetching
idle --load_started--> loading
idle --stop--> stopped

fetching --fetch_done--> idle
fetching --task_failed--> failed
fetching --stop--> stopped

loading --load_done--> loaded
loading --task_failed--> failed
loading --engine_failed--> failed
loading --stop--> stopped

loaded --load_started--> loading
loaded --connect_started--> connecting
loaded --engine_failed--> failed
loaded --stop--> stopped

connecting --connect_started--> connecting
connecting --connect_done--> warming
connecting --task_failed--> loaded
connecting --line_lost--> loaded
connecting --engine_failed--> failed
connecting --stop--> stopped

warming --connect_started--> connecting
warming --warm_up_started--> warming
warming --warm_up_done--> ready
warming --task_failed--> loaded
warming --line_lost--> loaded
warming --engine_failed--> failed
warming --stop--> stopped

ready --connect_started--> connecting
ready --drain_started--> draining
ready --line_lost--> loaded
ready --engine_failed--> failed
ready --stop--> stopped

draining --drain_done--> draining
draining --task_failed--> draining
draining --line_lost--> loaded
draining --engine_failed--> failed
draining --stop--> stopped

failed --fetch_started--> fetching
failed --load_started--> loading
failed --stop--> stopped

stopped --stop--> stopped
"""

TASK = """
pending --parked--> parked
pending --started--> running
pending --completed--> complete
pending --failed--> failed
pending --cancelled--> cancelled
pending --timed_out--> timed_out

parked --parked--> parked
parked --started--> running
parked --completed--> complete
parked --failed--> failed
parked --cancelled--> cancelled
parked --timed_out--> timed_out

running --started--> running
running --completed--> complete
running --failed--> failed
running --cancelled--> cancelled
running --timed_out--> timed_out
"""

INSTANCE = """
wanted --plan_started--> placing
wanted --unplaced--> waiting
wanted --adopted--> recovering
wanted --deleted--> draining

waiting --plan_started--> placing
waiting --unplaced--> waiting
waiting --adopted--> recovering
waiting --resumed--> recovering
waiting --replaced--> recovering
waiting --deleted--> draining

placing --placed--> starting
placing --unplaced--> waiting
placing --deleted--> draining

starting --all_ready--> ready
starting --seat_lost--> starting
starting --replaced--> starting
starting --gave_up--> failed
starting --unplaced--> waiting
starting --deleted--> draining

ready --seat_lost--> recovering
ready --replaced--> recovering
ready --unplaced--> waiting
ready --deleted--> draining

recovering --all_ready--> ready
recovering --seat_lost--> recovering
recovering --replaced--> recovering
recovering --gave_up--> failed
recovering --unplaced--> waiting
recovering --deleted--> draining

failed --all_ready--> ready
failed --seat_lost--> failed
failed --replaced--> failed
failed --unplaced--> waiting
failed --deleted--> draining

draining --deleted--> draining
draining --all_gone--> stopped
"""

STARTS_IN = {"runner": "idle", "task": "pending", "instance": "wanted"}

VERDICTS = """
           idle   fetching loading loaded connecting warming ready  draining stopped failed
fetch      accept park     refuse  refuse refuse     refuse  refuse refuse   refuse  accept
load       accept park     park    accept refuse     refuse  refuse refuse   refuse  accept
connect    refuse refuse   park    accept accept     accept  accept refuse   refuse  refuse
warm_up    refuse refuse   refuse  refuse park       park    refuse refuse   refuse  refuse
drain      refuse refuse   refuse  refuse park       park    accept refuse   refuse  refuse
stop       accept accept   accept  accept accept     accept  accept accept   accept  accept
dance      refuse refuse   refuse  refuse refuse     refuse  refuse refuse   refuse  refuse
"""
"""Of a task of a newer epoch than the runner's, by kind and state found."""


class Entry(NamedTuple):
    """`machine`, in `state`, on `event`."""

    machine: str
    state: str
    event: str


def entries(machine: str, text: str) -> dict[Entry, str]:
    """The state that follows each entry of a contract. Raises ValueError for a line that is none,
    or that says the same twice."""
    found: dict[Entry, str] = {}
    for line in filter(None, text.splitlines()):
        left, after = line.split("--> ")
        state, event = left.split(" --")
        entry = Entry(machine, state, event)
        if entry in found:
            raise ValueError(f"{line!r} is there twice")
        found[entry] = after
    return found


def differences(machine: Machine[Any, Any], text: str) -> dict[Entry, str]:
    """A sentence for every entry in which the machine's table is not the contract's."""
    agreed = entries(machine.name, text)
    built = {
        Entry(machine.name, str(state), str(event)): str(after)
        for state, row in machine.table.items()
        for event, after in row.items()
    }
    return {
        entry: f"{entry.machine}: {entry.state} on {entry.event}: expected "
        f"{agreed.get(entry, 'a rejection')}, found {built.get(entry, 'a rejection')}"
        for entry in sorted(agreed.keys() | built.keys())
        if agreed.get(entry) != built.get(entry)
    }


def wrong_verdicts() -> list[str]:
    """A sentence for every kind and state in which a runner does not do what was agreed."""
    head, *rows = filter(None, VERDICTS.splitlines())
    return [
        f"{kind} that knocks in {state}: expected {agreed}, found {found}"
        for kind, *answers in (row.split() for row in rows)
        for state, agreed in zip(head.split(), answers, strict=True)
        if (found := _answer(state, kind)) != agreed
    ]


def _answer(state: str, kind: str) -> str:
    match verdict(RunnerState(state), kind, Epoch(1, 1), Epoch(1, 2)):
        case Accept():
            return "accept"
        case Park():
            return "park"
        case _:
            return "refuse"
