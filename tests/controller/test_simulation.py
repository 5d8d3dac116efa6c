"""The real controller among nodes that crash and a network that cannot be trusted: once faults
stop, everything wanted is ready, and nothing else is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.controller.simulation import World


def explain(world: World) -> str:
    return "\n".join(f"{e.at:.1f} {e.sentence}" for e in world.events.since(0)[-60:])


def settle(world: World, seconds: float = 120.0) -> None:
    assert world.run(seconds, world.all_ready), explain(world)


def test_a_wish_becomes_a_line(tmp_path: Path) -> None:
    world = World(tmp_path)
    name = world.want(min_nodes=2)
    settle(world, 30)
    assert world.state(name) == "ready"
    assert len(list(world.runners())) == 2
