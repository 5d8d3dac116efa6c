"""A recovery can be read back from the logs, line by line, by whoever was not there."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime

import pytest

from tests.support.cluster import LocalCluster, local_cluster
from tests.support.small import SMALL, write_small
from tests.support.story import Line, Told, lines_since, missing

pytestmark = pytest.mark.real

RUNNER = ("node", "runner")
SEATED = (*RUNNER, "instance", "rank")
IN_LINE = (*SEATED, "epoch")
TASK = (*IN_LINE, "task")


def decision(kind: str, names: tuple[str, ...], contains: str = "", **says: object) -> Told:
    return Told("controller", {"event": "decision", "kind": kind, **says}, names, contains)


def state(name: str, **says: object) -> Told:
    return Told("runner", {"event": "state", "state": name, **says}, IN_LINE)


def story(dead: str, successor: str, instance: str, come_by: str) -> list[Told]:
    """Rank 1 is killed. `come_by`: whether its successor was taken or launched."""
    mine = {"runner": successor, "rank": 1}
    return [
        Told("node", {"event": "runner ended", "runner": dead}, (*RUNNER, "code"), "SIGKILL"),
        decision("runner_gone", SEATED, "killed by SIGKILL", runner=dead, rank=1),
        decision(come_by, SEATED, **mine),
        decision("order", TASK, "to load", **mine),
        state("loading", **mine),
        Told("runner", {"event": "task_ended", "kind": "load", "state": "complete"} | mine, TASK),
        state("loaded", **mine),
        decision("line_opened", ("instance", "epoch"), instance=instance),
        decision("order", TASK, "to connect", **mine),
        state("connecting", **mine),
        state("warming", **mine),
        decision("order", TASK, "to warm up", **mine),
        state("ready", **mine),
        decision("instance", ("instance", "epoch"), "is ready", instance=instance),
    ]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    write_small(models)
    with local_cluster(tmp_path_factory.mktemp("home"), models=models) as running:
        yield running


def test_a_recovery_is_told_line_by_line(cluster: LocalCluster) -> None:
    name = cluster.create(SMALL, min_nodes=2, kv_tokens=1024)
    epoch = cluster.ready(name)["epoch"]
    before = cluster.ranks(name)
    began = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    os.kill(before[1]["pid"], signal.SIGKILL)
    cluster.ready(name, after=epoch)
    after = cluster.ranks(name)
    lines = lines_since(cluster, began)
    taken = any(line.get("kind") == "take" for line in lines)
    come_by = "take" if taken else "launch"  # a blank runner may not be there yet
    told = story(before[1]["id"], after[1]["id"], name, come_by)
    assert not (what := missing(told, lines)), what + "\n" + "\n".join(map(str, lines))
    other = [line for line in lines if line.get("runner") == after[0]["id"]]
    assert after[0]["id"] == before[0]["id"]
    assert [line["state"] for line in other if line["event"] == "state"][-1] == "ready"
    the_events_are_told_too(cluster, lines)


def the_events_are_told_too(cluster: LocalCluster, lines: list[Line]) -> None:
    """events.jsonl has each decision of the controller's log, with its facts."""
    events = {(event["kind"], event["sentence"]): event["facts"] for event in cluster.events()}
    for line in lines:
        if line["event"] == "decision":
            facts = events[line["kind"], line["sentence"]]
            for key in ("node", "runner", "instance", "rank"):
                assert facts.get(key) == line.get(key), (key, line, facts)


def test_a_missing_line_or_name_is_missed() -> None:
    """The reader itself: it fails for a line that is not there, is too early, or names nobody."""
    one, two = (
        {"role": "node", "event": "e", "n": n, "runner": "r", "timestamp": str(n)} for n in (1, 2)
    )
    first, second = (Told("node", {"event": "e", "n": n}, ("runner",)) for n in (1, 2))
    assert not missing([first, second], [one, two])
    assert "no line of node says" in missing([first, second], [two, one])
    assert "no line of node says" in missing([first, second], [one])
    assert "does not name its task" in missing([first._replace(names=("task",))], [one])
