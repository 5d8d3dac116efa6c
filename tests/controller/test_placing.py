"""What the planner is told, and what becomes of its answers."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from paceline.controller.actions import Decision, Introduce
from paceline.controller.book import Patience
from paceline.controller.offers import pace
from paceline.controller.passing import PLANS, Pass
from paceline.planner import plan
from paceline.process.backoff import Backoff
from paceline.types.ids import Epoch
from paceline.types.instance import InstanceWish, ManualSeat
from paceline.types.links import Link, ProbeOffer
from paceline.types.model import ModelFacts
from paceline.types.states import InstanceState, RunnerState
from paceline.types.timing import DEFAULT_TIMING
from tests.controller.scenes import GIB, NOW, START, Scene
from tests.simulation.world import World

ONE = Epoch(1, 1)


def measured(scene: Scene, node: str, *links: Link) -> None:
    seen = scene.nodes[node]
    scene.nodes[node] = replace(seen, facts=replace(seen.facts, links=links))


def paced(scene: Scene, runner: str, seconds_per_byte: float) -> None:
    seen = scene.runners[runner]
    facts = replace(seen.facts, seconds_per_byte=seconds_per_byte)
    scene.runners[runner] = replace(seen, facts=facts)


def layers(scene: Scene) -> dict[str, int]:
    """How many each node got."""
    return {
        seat.plan.node: seat.plan.shard.stop - seat.plan.shard.start for seat in scene.inst.seats
    }


# --- measured nodes ------------------------------------------------------------------------------


def test_the_quicker_node_gets_more_layers() -> None:
    scene = Scene()
    for node, runner, pace_s in (("n1", "b-1", 1e-10), ("n2", "b-2", 4e-10)):
        scene.node(node, runner, holding={runner: 0})
        scene.blank(runner, node)
        paced(scene, runner, pace_s)
    scene.wanted(wish={"objective": "throughput"})
    scene.go()
    got = layers(scene)
    assert got["n1"] > 2 * got["n2"]


def test_of_two_runners_the_quicker_tells_the_pace_and_a_dead_incarnation_tells_none() -> None:
    scene = Scene()
    scene.node("n1", "b-1", "b-2", holding={"b-1": 0, "b-2": 0})
    for runner, pace_s in (("b-1", 9e-10), ("b-2", 3e-10)):
        scene.blank(runner, "n1")
        paced(scene, runner, pace_s)
    seen = scene.runners["b-2"]
    scene.runners["old"] = replace(
        seen, facts=replace(seen.facts, runner_id="old", incarnation="z", seconds_per_byte=1e-12)
    )
    assert pace(scene.facts()) == {"n1": 3e-10}


def test_noise_in_what_is_measured_does_not_make_a_waiting_instance_talk() -> None:
    scene = Scene()
    scene.wanted(wish={"min_nodes": 5})
    assert "waits" in scene.go()[0]
    scene.node("n1", "b-1", holding={"b-1": 0})
    scene.blank("b-1", "n1")
    scene.book.names = 0
    for pace_s in (1e-10, 3e-10, 9e-10):
        paced(scene, "b-1", pace_s)
        assert not [said for said in scene.go() if "waits" in said]


# --- ways between them ---------------------------------------------------------------------------


def broken_twice(scene: Scene) -> None:
    scene.placed(0, 1, patience=Patience(Backoff(2), NOW), trouble="rank 1 has been silent")
    for rank in (0, 1):
        scene.runner(rank, RunnerState.LOADED)


def test_a_line_over_a_dead_link_is_reconnected_first_and_then_placed_around_it() -> None:
    dead = Link(a="n1", b="n2", bad=True)
    scene = Scene()
    scene.placed(0, 1, patience=Patience(Backoff(1), NOW))
    for rank in (0, 1):
        scene.runner(rank, RunnerState.LOADED)
    measured(scene, "n1", dead)
    assert scene.go()[0] == "i-1 gets epoch 1.1: all 2 ranks hold their layers"

    scene = Scene()
    broken_twice(scene)
    scene.node("n3")
    scene.book.nodes["n3"] = "ready"
    measured(scene, "n1", dead)
    said = scene.go()
    assert "the link between n1 and n2 does not work" in said[0]
    assert "n3" in layers(scene)
    assert not {"n1", "n2"} <= set(layers(scene))


def test_without_a_way_around_it_waits_and_goes_on_when_the_link_works_again() -> None:
    scene = Scene()
    broken_twice(scene)
    measured(scene, "n1", Link(a="n1", b="n2", bad=True))
    scene.go()
    assert scene.inst.state is InstanceState.WAITING
    assert scene.inst.reasons[0] == "waiting: the link between n1 and n2 does not work"
    assert [seat.runner for seat in scene.inst.seats] == ["r-0", "r-1"], "the weights are kept"
    measured(scene, "n1", Link(a="n1", b="n2"))
    assert scene.go()[0] == "i-1 goes on: what it waited for is there"


def test_a_bad_report_about_a_node_that_is_not_ready_counts_for_nothing() -> None:
    scene = Scene()
    broken_twice(scene)
    measured(scene, "n1", Link(a="n1", b="n9", bad=True))
    assert not Pass(scene.facts(), scene.book, scene.now, DEFAULT_TIMING).bad_edges


def test_every_node_is_told_whom_to_measure_and_whom_to_admit() -> None:
    scene = Scene()
    scene.node("n3")
    scene.book.nodes["n3"] = "ready"
    for name, seen in scene.nodes.items():
        offer = ProbeOffer(address=f"probe-{name}", public_key=f"key-{name}")
        scene.nodes[name] = replace(seen, facts=replace(seen.facts, probe=offer))
    (told,) = [a.peers for a in scene.decide() if isinstance(a, Introduce)]
    assert set(told) == {"n1", "n2", "n3"}
    assert set(told["n2"].measure) == {"n1", "n3"}
    assert told["n2"].admit == ("key-n1", "key-n3")
    assert told["n2"].term == scene.book.term
    scene.go()
    assert not [a for a in scene.decide() if isinstance(a, Introduce)]


# --- by hand, and what changes on the way --------------------------------------------------------


def by_hand(*cuts: tuple[str, int, int]) -> dict[str, Any]:
    seats = tuple(
        ManualSeat(rank=rank, node=node, start=start, stop=stop)
        for rank, (node, start, stop) in enumerate(cuts)
    )
    return {"seats": seats, "min_nodes": 1}


def test_a_placement_by_hand_is_taken_as_it_is() -> None:
    scene = Scene()
    scene.wanted(wish=by_hand(("n2", 0, 3), ("n1", 3, 30)))
    scene.go()
    assert layers(scene) == {"n2": 3, "n1": 27}


def test_a_placement_by_hand_that_has_become_impossible_waits_and_is_not_bent() -> None:
    scene = Scene()
    scene.node("n2", memory_bytes=GIB // 2)
    scene.wanted(wish=by_hand(("n1", 0, 3), ("n2", 3, 30)))
    scene.go()
    assert scene.inst.state is InstanceState.WAITING
    assert "rank 1: n2: needs" in scene.inst.reasons[0]
    scene.node("n2")
    scene.go()
    assert layers(scene) == {"n1": 3, "n2": 27}


def test_a_node_that_leaves_between_plan_and_launch_costs_a_new_plan() -> None:
    scene = Scene()
    scene.wanted()
    (placed,) = [action for action in scene.decide() if action.kind == "placed"]
    scene.act(placed)
    scene.node("n2", silent_s=60.0)
    scene.node("n3")
    scene.book.nodes["n3"] = "ready"
    said = " / ".join(scene.go())
    assert "rank 1 needs n2, which is lost" in said
    assert set(layers(scene)) == {"n1", "n3"}
    assert "is launched on n2" not in said


# --- many at once --------------------------------------------------------------------------------


def planned(scene: Scene) -> list[str]:
    """The instances whose turn with the planner it was."""
    said = [
        action for action in scene.decide() if action.kind in ("placed", "waiting", "ask_again")
    ]
    scene.act(*said)
    return [action.instance for action in said]


def test_many_wishes_at_once_are_planned_a_few_in_a_pass() -> None:
    scene = Scene()
    for node in ("n1", "n2"):
        scene.node(node, memory_bytes=64 * GIB)
    names = [f"i-{number}" for number in range(2 * PLANS + 1)]
    for name in names:
        scene.wanted(wish={"id": name})
    assert scene.decision().is_part
    assert planned(scene) == names[:PLANS]
    assert planned(scene) == names[PLANS : 2 * PLANS]
    assert not scene.decision().is_part
    assert planned(scene) == names[2 * PLANS :]
    assert planned(scene) == []


def test_whoever_waits_longest_for_the_planner_is_next() -> None:
    """Though nothing stays as it was from one pass to the next."""
    scene = Scene()
    names = [f"i-{number}" for number in range(2 * PLANS)]
    for name in names:
        scene.wanted(wish={"id": name, "min_nodes": 3})
    turns = []
    for turn in range(4):
        scene.now += 1.0
        for node in ("n1", "n2"):
            scene.node(node, memory_bytes=2 * GIB + turn)
        turns.append(planned(scene))
    assert turns == [names[:PLANS], names[PLANS:]] * 2


def test_wishes_that_cannot_even_be_planned_take_nobodys_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def explodes(model: ModelFacts, offered: Any, wish: InstanceWish, **others: Any) -> Any:
        if wish.id != "i-last":
            raise ZeroDivisionError("in the planner")
        return plan(model, offered, wish, **others)

    monkeypatch.setattr("paceline.controller.placing.plan", explodes)
    scene = Scene()
    for name in (*(f"i-{number}" for number in range(2 * PLANS)), "i-last"):
        scene.wanted(wish={"id": name})
    scene.go()
    assert scene.book.instances["i-last"].seats
    (reason, *_) = scene.book.instances["i-0"].reasons
    assert reason == "waiting: planning failed: ZeroDivisionError: in the planner"


def test_planning_that_does_not_come_to_rest_keeps_no_core_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(nodes=1)
    world.want()
    now = world.now
    endless = Decision((), now + 0.25, 0, is_part=True)
    monkeypatch.setattr("paceline.controller.controller.decide", lambda *_: endless)
    wakes = [world.controller.step() for _ in range(4)]
    assert wakes == [now, *[now + 0.25] * 3]


def test_planning_without_end_keeps_no_order_from_being_repeated() -> None:
    scene = Scene()
    scene.placed(0)
    scene.book.runners["r-0"] = replace(scene.book.runners["r-0"], kill="for a test", told_at=START)
    for number in range(2 * PLANS):
        scene.wanted(wish={"id": f"i-{number}", "min_nodes": 3})
    scene.go()
    scene.now += 10.0
    scene.node("n1", "r-0")
    scene.node("n2", memory_bytes=3 * GIB)
    decision = scene.decision()
    assert decision.is_part
    assert all(action.quiet for action in decision.actions)
    assert "tell_again" in {action.kind for action in decision.actions}
