"""What every cluster keeps to, whatever it is made of (`paceline.cluster.base`)."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from paceline.types.control import Kill, Launch
from paceline.types.facts import NodeFacts, ProcessExit
from paceline.types.ids import RunnerId

from .conftest import MEMORY, NODE, Harness, alive, until


def launch(harness: Harness, name: str, memory: int = 1, incarnation: str | None = None) -> None:
    order = Launch(
        runner_id=RunnerId(name),
        incarnation=incarnation or harness.facts().incarnation,
        memory_bytes=memory,
    )
    assert harness.cluster.launch(NODE, order) is (incarnation is None)


def kill(harness: Harness, name: str, grace_s: float = 5.0, reason: str = "not needed") -> None:
    order = Kill(runner_id=RunnerId(name), grace_s=grace_s, reason=reason)
    assert harness.cluster.kill(NODE, harness.facts().incarnation, order)


def pid_of(facts: NodeFacts, name: str) -> int | None:
    return next((p.pid for p in facts.processes if p.runner_id == name), None)


def exit_of(facts: NodeFacts, name: str) -> ProcessExit | None:
    return next((e for e in facts.exits if e.runner_id == name), None)


def launched(harness: Harness, name: str, memory: int = 1) -> int:
    launch(harness, name, memory)
    until(lambda: pid_of(harness.facts(), name))
    pid = pid_of(harness.facts(), name)
    assert pid is not None
    until(lambda: minds_sigterm(pid))
    return pid


def minds_sigterm(pid: int) -> bool:
    """It catches or ignores SIGTERM, as its manner is: it is past its start."""
    status = dict(
        line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return bool((int(status["SigIgn"], 16) | int(status["SigCgt"], 16)) >> (signal.SIGTERM - 1) & 1)


def ended(harness: Harness, name: str) -> ProcessExit:
    until(lambda: exit_of(harness.facts(), name))
    exit_ = exit_of(harness.facts(), name)
    assert exit_ is not None
    return exit_


def test_a_node_tells_who_it_is(harness: Harness) -> None:
    facts = harness.facts()
    assert (facts.name, facts.cluster_id, facts.memory_bytes) == (NODE, "cluster-test", MEMORY)
    assert facts.incarnation
    assert alive(facts.pid)
    assert (facts.processes, facts.exits) == ((), ())


def test_a_launch_brings_a_process_and_its_repetition_no_second(harness: Harness) -> None:
    pid = launched(harness, "plain-1", memory=7)
    for _ in range(3):
        launch(harness, "plain-1", memory=7)
    launched(harness, "plain-2")
    facts = harness.facts()
    assert facts.exits == ()
    assert [(p.runner_id, p.memory_bytes) for p in facts.processes] == [
        ("plain-1", 7),
        ("plain-2", 1),
    ]
    assert pid_of(facts, "plain-1") == pid
    assert alive(pid)


def test_a_launch_for_another_incarnation_starts_nothing(harness: Harness) -> None:
    launch(harness, "plain-1", incarnation="another")
    launched(harness, "plain-2")
    assert [p.runner_id for p in harness.facts().processes] == ["plain-2"]


def test_a_killed_runner_is_gone_with_the_reason_and_its_name_stays_used(harness: Harness) -> None:
    pid = launched(harness, "plain-1")
    kill(harness, "plain-1", reason="instance deleted")
    assert "instance deleted" in ended(harness, "plain-1").sentence
    assert not alive(pid)
    kill(harness, "plain-1")
    launch(harness, "plain-1")
    launched(harness, "plain-2")
    assert [p.runner_id for p in harness.facts().processes] == ["plain-2"]
    assert len(harness.facts().exits) == 1


def test_a_deaf_runner_is_gone_after_its_grace_and_counts_until_then(harness: Harness) -> None:
    launched(harness, "deaf-1", memory=MEMORY)
    kill(harness, "deaf-1", grace_s=1.0)
    launch(harness, "plain-2", memory=1)
    assert "not started" in ended(harness, "plain-2").sentence
    assert ended(harness, "deaf-1").code == -signal.SIGKILL
    launched(harness, "plain-3", memory=MEMORY)


def test_a_launch_beyond_the_memory_is_refused_with_the_numbers(harness: Harness) -> None:
    launched(harness, "plain-1", memory=MEMORY - 10)
    launch(harness, "plain-2", memory=11)
    refused = ended(harness, "plain-2")
    assert (refused.pid, refused.code > 0) == (0, True)
    assert "not started: it needs" in refused.sentence
    launched(harness, "plain-3", memory=10)


def test_a_kill_of_what_is_not_there_shows_it_as_ended_and_starts_nothing(harness: Harness) -> None:
    pid = launched(harness, "plain-1")
    kill(harness, "plain-9")
    launched(harness, "plain-2")
    assert alive(pid)
    (ended,) = harness.facts().exits
    assert (ended.runner_id, ended.pid) == ("plain-9", 0)
    assert "is not here" in ended.sentence


def test_a_crash_shows_with_its_last_words(harness: Harness) -> None:
    launch(harness, "crash-1")
    crashed = ended(harness, "crash-1")
    assert crashed.code == 1
    assert "the shard is damaged" in crashed.sentence
    assert crashed.log_tail == ("loading shard", "the shard is damaged")


def test_a_kill_from_elsewhere_is_told_apart_from_ours(harness: Harness) -> None:
    os.kill(launched(harness, "plain-1"), signal.SIGKILL)
    sentence = ended(harness, "plain-1").sentence
    assert "SIGKILL" in sentence
    assert "as asked" not in sentence


def test_the_exits_in_the_facts_are_bounded(harness: Harness) -> None:
    names = [f"crash-{number}" for number in range(20)]
    for name in names:
        launch(harness, name, memory=MEMORY + 1)
    assert ended(harness, names[-1])
    assert [e.runner_id for e in harness.facts().exits] == names[-16:]


@pytest.mark.parametrize("manner", ["plain", "deaf", "stopped"])
def test_no_runner_outlives_its_node(harness: Harness, manner: str) -> None:
    pid = launched(harness, f"{manner}-1")
    if manner == "stopped":
        until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    harness.lose_node()
    until(lambda: not alive(pid))


def test_a_node_that_comes_back_is_another_incarnation_with_nothing_on_it(harness: Harness) -> None:
    before = harness.facts().incarnation
    launched(harness, "plain-1")
    harness.lose_node()
    harness.start_node()
    facts = harness.facts()
    assert facts.incarnation != before
    assert (facts.processes, facts.exits) == ((), ())


def test_a_node_that_is_ended_takes_its_runners_along(harness: Harness) -> None:
    pids = [launched(harness, name) for name in ("plain-1", "deaf-1")]
    harness.stop_node()
    assert [pid for pid in pids if alive(pid)] == []
