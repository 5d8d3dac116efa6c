"""The real controller among nodes that crash and a network that cannot be trusted: once faults
stop, everything wanted is ready, and nothing else is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.controller.simulation import World

SEEDS = range(30)
FAULTS_S = 45.0
SETTLE_S = 150.0


def told(world: World) -> str:
    return "\n".join(f"{e.at:.1f} [{e.kind}] {e.sentence}" for e in world.events.since(0)[-80:])


def settle(world: World, seconds: float = SETTLE_S) -> None:
    assert world.run(seconds, world.all_ready), told(world)


# --- faults --------------------------------------------------------------------------------------


def kill_runner(world: World) -> None:
    alive = sorted(world.runners(), key=lambda runner: runner.name)
    if alive:
        runner = world.random.choice(alive)
        runner.node.end(runner, -9, "killed by SIGKILL")


def hang_runner(world: World) -> None:
    alive = sorted(world.runners(), key=lambda runner: runner.name)
    if alive:
        world.random.choice(alive).hung = True


def crash_node(world: World) -> None:
    node = world.random.choice(list(world.nodes.values()))
    if node.up:
        node.crash()
        world.later(world.random.uniform(0.1, 12.0), node.boot)


def cut_node(world: World) -> None:
    name = world.random.choice(list(world.nodes))
    world.cut.add(name)
    world.later(world.random.uniform(0.5, 8.0), lambda: world.cut.discard(name))


def restart_controller(world: World) -> None:
    world.controller_up = False
    world.run(world.random.uniform(0.1, 4.0))
    world.start_controller()


def pause_controller(world: World) -> None:
    world.pause_controller(world.random.uniform(0.5, 6.0))


FAULTS: list[Callable[[World], None]] = [
    kill_runner,
    hang_runner,
    crash_node,
    cut_node,
    restart_controller,
    pause_controller,
]


@pytest.mark.parametrize("seed", SEEDS)
def test_after_any_faults_everything_wanted_is_ready_and_nothing_else_lives(
    seed: int, tmp_path: Path
) -> None:
    world = World(tmp_path, seed=seed, nodes=3, memory_gib=2.5)
    names = [world.want(min_nodes=2), world.want(min_nodes=1), world.want(min_nodes=3)]
    world.loss = world.random.choice([0.0, 0.05, 0.3])
    world.repeat = world.random.choice([0.0, 0.2])
    world.delay_s = world.random.choice([0.0, 0.3, 1.0])
    world.task_failures = world.random.choice([0.0, 0.1])
    end = world.now + FAULTS_S
    while world.now < end:
        world.random.choice(FAULTS)(world)
        world.run(world.random.uniform(0.1, 6.0))
    world.unwant(names.pop())
    world.end_faults()
    settle(world)
    world.run(30.0)
    assert world.all_ready(), told(world)
    assert list(world.controller.book.instances) == names, told(world)
    seats = [seat for name in names for seat in world.controller.book.instances[name].seats]
    assert {seat.runner for seat in seats} == {r.name for r in world.runners()}, told(world)
    before = world.events.newest
    world.run(60.0)
    assert world.events.newest == before, told(world)
