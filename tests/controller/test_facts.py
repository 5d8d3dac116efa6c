"""What is heard, from whom, and whose silence counts."""

from __future__ import annotations

from msgspec.structs import replace

from paceline.controller.facts import FORGET_S, Observer
from paceline.types.control import GatewayBeat, NodeBeat, RunnerBeat
from paceline.types.facts import GatewayFacts, NodeFacts, RunnerFacts
from paceline.types.states import RunnerState
from paceline.types.timing import DEFAULT_TIMING

NODE = NodeFacts(
    name="n1", incarnation="a", cluster_id="c", pid=1, host="h", cpus=1, memory_bytes=1
)
RUNNER = RunnerFacts(
    runner_id="r",
    node="n1",
    incarnation="a",
    cluster_id="c",
    pid=2,
    state=RunnerState.IDLE,
    since_s=0.0,
)
GATEWAY = GatewayFacts(gateway_id="g", pid=3, url="u", public_key="k")


def observer(now: float = 100.0) -> Observer:
    return Observer("c", now, DEFAULT_TIMING)


def test_the_last_word_of_each_counts() -> None:
    seen = observer()
    seen.take(NodeBeat(NODE), 101.0)
    seen.take(NodeBeat(replace(NODE, cpus=8)), 101.5)
    seen.take(RunnerBeat(RUNNER), 102.0)
    seen.take(GatewayBeat(GATEWAY), 102.0)
    facts = seen.facts({}, 103.0)
    assert facts.nodes["n1"].facts.cpus == 8
    assert facts.silence_s(facts.nodes["n1"].heard_at, 103.0) == 1.5
    assert set(facts.runners) == {"r"}
    assert set(facts.gateways) == {"g"}


def test_a_beat_that_a_later_one_has_overtaken_is_old_news() -> None:
    seen = observer()
    for late, new in (
        (NodeBeat(NODE, number=1), NodeBeat(replace(NODE, cpus=8), number=2)),
        (RunnerBeat(RUNNER, number=1), RunnerBeat(replace(RUNNER, pid=8), number=2)),
        (GatewayBeat(GATEWAY, number=1), GatewayBeat(replace(GATEWAY, streams=8), number=2)),
    ):
        assert seen.take(new, 101.0)
        assert not seen.take(late, 101.5)
        assert not seen.take(new, 102.0), "the same again proves no life"
    facts = seen.facts({}, 103.0)
    heard = [*facts.nodes.values(), *facts.runners.values(), *facts.gateways.values()]
    assert {each.heard_at for each in heard} == {101.0}
    assert facts.nodes["n1"].facts.cpus == 8


def test_who_was_taken_for_an_earlier_incarnation_is_heard_once_the_other_is_silent() -> None:
    seen = observer()
    assert seen.take(NodeBeat(replace(NODE, started_at=50.0), number=90), 101.0)
    later = replace(NODE, incarnation="b", started_at=20.0)
    assert not seen.take(NodeBeat(later, number=2), 101.5), "its clock was set back"
    assert seen.take(NodeBeat(later, number=9), 104.5)
    assert seen.take(NodeBeat(later, number=10), 105.0)
    assert seen.facts({}, 105.0).nodes["n1"].facts.incarnation == "b"


def test_a_snapshot_is_not_changed_by_later_beats() -> None:
    seen = observer()
    before = seen.facts({}, 100.0)
    seen.take(NodeBeat(NODE), 101.0)
    assert not before.nodes


def test_another_cluster_is_left_alone() -> None:
    seen = observer()
    assert not seen.take(NodeBeat(replace(NODE, cluster_id="other")), 101.0)
    assert not seen.take(RunnerBeat(replace(RUNNER, cluster_id="other")), 101.0)
    assert seen.foreign_beats == 2
    facts = seen.facts({}, 101.0)
    assert not facts.nodes
    assert not facts.runners


def test_strangers_are_added_up_over_the_processes_that_told_of_them() -> None:
    seen = observer()
    for number, (runner, count) in enumerate([("r", 2), ("r", 2), ("s", 1), ("r", 5)], start=1):
        facts = replace(RUNNER, runner_id=runner, strangers=count)
        assert seen.take(RunnerBeat(facts, number=number), 101.0)
    seen.take(NodeBeat(replace(NODE, strangers=4)), 101.0)
    seen.take(NodeBeat(replace(NODE, incarnation="b", started_at=1.0, strangers=3)), 102.0)
    assert seen.strangers == {"runner": 6, "node": 7}


def test_an_incarnation_that_another_has_followed_is_not_heard_any_more() -> None:
    seen = observer()
    seen.take(NodeBeat(NODE), 101.0)
    seen.take(NodeBeat(replace(NODE, incarnation="c", started_at=9.0)), 102.0)
    never_heard = replace(NODE, incarnation="b", started_at=5.0)
    for earlier in (NODE, never_heard):
        assert not seen.take(NodeBeat(earlier), 103.0)
    assert seen.facts({}, 103.0).nodes["n1"].facts.incarnation == "c"


def test_an_observer_that_stood_still_counts_silence_anew() -> None:
    seen = observer()
    seen.take(NodeBeat(NODE), 100.5)
    assert seen.tick(101.0) == 0.0
    assert seen.tick(109.0) == 8.0
    facts = seen.facts({}, 109.5)
    assert facts.silence_s(facts.nodes["n1"].heard_at, 109.5) == 0.5


def test_a_node_that_fell_silent_is_not_steady_until_it_has_beaten_for_a_while() -> None:
    seen = observer()
    for at in (100.5, 101.0, 101.5):
        seen.tick(at)
        seen.take(NodeBeat(NODE), at)
    assert seen.facts({}, 102.0).nodes["n1"].steady_since < 100.0
    for at in (102.0, 103.0, 104.0):
        seen.tick(at)
    seen.take(NodeBeat(NODE), 104.0)
    seen.take(NodeBeat(NODE), 104.5)
    assert seen.facts({}, 104.5).nodes["n1"].steady_since == 104.0


def test_a_nodes_steadiness_is_not_lost_by_our_own_sleep() -> None:
    seen = observer()
    seen.take(NodeBeat(NODE), 100.5)
    seen.tick(109.0)
    seen.take(NodeBeat(NODE), 109.1)
    assert seen.facts({}, 109.1).nodes["n1"].steady_since < 100.0


def test_who_is_silent_for_long_is_forgotten_but_nodes_are_kept() -> None:
    seen = observer()
    seen.take(NodeBeat(NODE), 100.0)
    seen.take(RunnerBeat(RUNNER), 100.0)
    seen.take(GatewayBeat(GATEWAY), 100.0)
    facts = seen.facts({}, 100.1 + FORGET_S)
    assert set(facts.nodes) == {"n1"}
    assert not facts.runners
    assert not facts.gateways
