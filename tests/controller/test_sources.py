"""Whom a runner or a gateway is told to fetch from."""

from __future__ import annotations

from msgspec.structs import replace

from paceline.controller.facts import ModelSeen
from paceline.controller.routing import routes
from paceline.controller.sources import MAX_SOURCES, sources_of
from paceline.types.states import RunnerState
from paceline.types.tasks import Fetch
from paceline.types.weights import DepotOffer, HeldCheckpoint
from tests.controller.scenes import PLACED, Scene
from tests.simulation.models import SMOL


def holds(scene: Scene, name: str, digest: str = SMOL.digest, is_whole: bool = True) -> None:
    """The node has a depot, and this in it."""
    if name not in scene.nodes:
        scene.node(name)
        scene.book.nodes[name] = "ready"
    seen = scene.nodes[name]
    facts = replace(
        seen.facts,
        depot=DepotOffer(address=f"depot-{name}", public_key=f"key-{name}"),
        checkpoints=(HeldCheckpoint(digest=digest, is_whole=is_whole),),
    )
    scene.nodes[name] = replace(seen, facts=facts)


def asked(scene: Scene, asker: str | None = None) -> list[str]:
    found = sources_of(scene.facts(), "smol", scene.nodes, asker)
    return [source.node for source in found.sources] if found else []


def test_whole_ones_come_first_and_the_asker_is_not_among_them():
    scene = Scene()
    holds(scene, "n1", is_whole=False)
    holds(scene, "n2")
    holds(scene, "n3", digest="another")
    assert asked(scene) == ["n2", "n1"]
    assert asked(scene, "n2") == ["n1"]


def test_they_are_bounded_and_nobody_is_named_for_a_model_that_is_not_known():
    scene = Scene()
    for number in range(2 * MAX_SOURCES):
        holds(scene, f"m{number}")
    assert len(asked(scene)) == MAX_SOURCES
    scene.models["smol"] = ModelSeen(pulling="34 %")
    assert sources_of(scene.facts(), "smol", scene.nodes) is None


def test_not_everybody_asks_the_same_few():
    scene = Scene()
    names = {f"m{number}" for number in range(3 * MAX_SOURCES)}
    for name in names:
        holds(scene, name)
    askers = [f"a{number}" for number in range(20)]
    assert {name for asker in askers for name in asked(scene, asker)} == names
    assert all(asked(scene, asker) == asked(scene, asker) for asker in askers)


def test_a_fetch_names_the_content_the_shard_and_who_has_it():
    scene = Scene()
    scene.placed(0, 1)
    holds(scene, "n2")
    scene.runner(0, RunnerState.IDLE, loaded=False)
    scene.go()
    task = scene.sent[-1][1].task
    assert isinstance(task, Fetch)
    assert (task.digest, task.shard) == (SMOL.digest, PLACED.seats[0].shard)
    assert [source.node for source in task.sources] == ["n2"]


def test_gateways_are_told_too():
    scene = Scene()
    scene.placed(0, 1)
    holds(scene, "n1")
    (known,) = routes(scene.facts(), scene.book, {}, {}).models
    assert (known.model, known.digest) == ("smol", SMOL.digest)
    assert [source.node for source in known.sources] == ["n1"]
    scene.book.nodes["n1"] = "lost"
    (known,) = routes(scene.facts(), scene.book, {}, {}).models
    assert known.sources == ()
