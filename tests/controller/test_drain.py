"""Nodes that are to be empty: their seats go to others while the old line serves on."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from paceline.controller.store import Store
from paceline.types.control import Kill
from paceline.types.ids import Epoch, NodeName
from paceline.types.states import InstanceState, RunnerState
from tests.controller.scenes import MEMORY, Scene

ONE, TWO = Epoch(1, 1), Epoch(1, 2)


def drain(scene: Scene, node: str) -> None:
    scene.book.drained.add(NodeName(node))


def leave(scene: Scene, node: str) -> None:
    seen = scene.nodes[node]
    scene.nodes[node] = replace(seen, facts=replace(seen.facts, leaving=True))


@pytest.fixture
def scene() -> Scene:
    """A line over n1 and n2 that stands, and a node with room."""
    scene = Scene()
    scene.ready(ONE)
    scene.node("n3")
    scene.go()
    return scene


@pytest.mark.parametrize("how", [drain, leave])
def test_its_seats_are_given_to_another_node_and_the_old_line_serves_on(scene, how) -> None:
    how(scene, "n2")
    said = scene.go()
    assert said[0] == "n2 is to be empty: its seats go to other nodes"
    assert "i-1 (smol) is placed: rank 0 on n1 (layers 0–15), rank 1 on n3" in said[1]
    assert any("is launched on n3" in sentence for sentence in said)
    assert scene.inst.state is InstanceState.RECOVERING
    assert scene.inst.retired == ONE
    assert not [order for _, order in scene.sent if isinstance(order, Kill)]


def test_once_the_next_line_is_ready_who_is_left_over_is_ended(scene) -> None:
    drain(scene, "n2")
    scene.go()
    old = scene.runners["r-1"]
    scene.runner(0, RunnerState.READY, epoch=TWO)
    scene.runner(1, RunnerState.READY, epoch=TWO)
    moved = replace(scene.runners["r-1"].facts, runner_id="r-1-1", node="n3")
    scene.runners["r-1-1"] = replace(old, facts=moved)
    scene.runners["r-1"] = old
    scene.node("n3", "r-1-1", holding={"r-1-1": MEMORY["n2"]})
    scene.book.instances["i-1"] = replace(scene.inst, epoch=TWO)
    assert scene.go() == [
        "i-1 (smol) is ready: all of epoch 1.2 are",
        "r-1 on n2 is ended: no seat needs it",
    ]


def test_an_old_line_that_has_broken_is_kept_for_nothing(scene) -> None:
    drain(scene, "n2")
    scene.go()
    scene.runner(1, RunnerState.LOADED)
    assert "r-1 on n2 is ended: no seat needs it" in scene.go()


def test_where_there_is_no_other_node_it_goes_on_where_it_is_and_says_why() -> None:
    scene = Scene()
    scene.ready(ONE)
    scene.go()
    drain(scene, "n2")
    said = scene.go()
    assert said[1:] == [
        "i-1 cannot leave n2 and goes on there: asked for at least 2 nodes, 1 node ready"
    ]
    assert scene.inst.state is InstanceState.READY
    assert scene.inst.reasons[1] == ("ready: cannot move: asked for at least 2 nodes, 1 node ready")
    assert scene.go() == []
    scene.node("n3")
    assert "is placed: rank 0 on n1 (layers 0–15), rank 1 on n3" in " ".join(scene.go())


def test_a_seat_that_is_lost_there_is_not_filled_there_again() -> None:
    scene = Scene()
    scene.placed(0, state=InstanceState.RECOVERING)
    scene.runner(0, RunnerState.LOADED)
    drain(scene, "n2")
    assert scene.go()[1:] == [
        "i-1 (smol) waits: rank 1 needs n2, which is to be empty; "
        "asked for at least 2 nodes, 1 node ready"
    ]
    assert "n2 may be given seats again, " in " ".join(scene.inst.reasons)
    scene.book.drained.clear()
    assert scene.go()[:2] == [
        "n2 may be given seats again",
        "i-1 goes on: what it waited for is there",
    ]


def test_it_gets_no_blank_runner_and_loses_the_one_it_has() -> None:
    scene = Scene()
    scene.node("n1", blanks=1)
    scene.go()
    drain(scene, "n1")
    assert scene.go()[1:] == ["r-1-1 on n1 is ended: n1 is to be empty"]


def test_what_people_said_is_known_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    for node, drained in (("n1", True), ("n2", True), ("n1", True), ("n2", False)):
        store.drain(NodeName(node), drained)
    store.close()
    again = Store(tmp_path / "s")
    assert again.drained() == {"n1"}
    again.close()
