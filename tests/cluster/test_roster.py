"""What the conformance suite cannot bring about on a real node."""

import sys

import pytest

from paceline.cluster.node import roster as roster_module
from paceline.cluster.node.roster import LAST_EXITS, Roster
from paceline.process.spawn import Child
from paceline.types.control import Kill, Launch
from paceline.types.ids import RunnerId


def launch(name: str) -> Launch:
    return Launch(runner_id=RunnerId(name), incarnation="one", memory_bytes=10)


def cannot(name: RunnerId) -> Child:
    raise OSError(11, "Resource temporarily unavailable")


def never(name: RunnerId) -> Child:
    raise AssertionError(f"{name} was started")


def test_a_process_that_cannot_be_started_is_an_exit_with_the_reason() -> None:
    roster = Roster("one", 100, cannot)
    roster.launch(launch("r-1"))
    assert roster.tick() is True
    assert roster.tick() is False
    [ended] = roster.exits
    assert (ended.runner_id, ended.pid) == ("r-1", 0)
    assert "not started: [Errno 11] Resource temporarily unavailable" in ended.sentence
    assert (roster.processes, roster.reserved_bytes) == ((), 0)


def test_a_node_that_goes_away_starts_nothing_more() -> None:
    roster = Roster("one", 100, never)
    roster.close(1.0, "it got SIGTERM")
    roster.launch(launch("r-1"))
    assert "the node is going away (it got SIGTERM)" in roster.exits[0].sentence


def test_a_kill_that_comes_before_its_launch_wins() -> None:
    roster = Roster("one", 100, never)
    roster.kill(Kill(runner_id=RunnerId("r-1"), grace_s=1.0, reason="late order"))
    roster.launch(launch("r-1"))
    assert (roster.processes, roster.reserved_bytes) == ((), 0)
    [ended] = roster.exits
    assert (ended.runner_id, ended.sentence) == ("r-1", "is not here: late order")
    roster.kill(Kill(runner_id=RunnerId("r-1"), grace_s=1.0, reason="late order"))
    assert len(roster.exits) == 1, "it is shown already"


def test_orders_of_an_older_controller_change_nothing() -> None:
    roster = Roster("one", 100, never)
    roster.kill(Kill(runner_id=RunnerId("r-1"), grace_s=1.0, reason="of term 2", term=2))
    shown = roster.exits
    roster.launch(Launch(runner_id=RunnerId("r-2"), incarnation="one", memory_bytes=1, term=1))
    roster.kill(Kill(runner_id=RunnerId("r-3"), grace_s=1.0, reason="of term 1", term=1))
    assert (roster.exits, roster.term) == (shown, 2)
    with pytest.raises(AssertionError, match="r-2 was started"):
        roster.launch(Launch(runner_id=RunnerId("r-2"), incarnation="one", memory_bytes=1, term=2))


def test_names_are_forgotten_oldest_first_but_never_of_the_living(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(roster_module, "NAMES_KEPT", 3)

    def start(name: RunnerId) -> Child:
        return Child([sys.executable, "-c", "import time; time.sleep(60)"], name=name)

    roster = Roster("one", 10, start)
    roster.launch(launch("r-0"))
    for number in range(1, 30):
        roster.launch(launch(f"r-{number}"))
    assert [process.runner_id for process in roster.processes] == ["r-0"]
    assert len(roster.exits) == LAST_EXITS
    roster.launch(launch("r-0"))
    assert [process.runner_id for process in roster.processes] == ["r-0"]
    roster.close(0.0, "the test is over")
    while roster.processes:
        roster.tick()
