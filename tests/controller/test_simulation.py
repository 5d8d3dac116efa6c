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
    assert all(task.state.is_terminal for task in world.controller.book.tasks.values())
    before = world.events.newest
    world.run(60.0)
    assert world.events.newest == before, told(world)


# --- single faults, and what each must leave untouched --------------------------------------------


def lines(world: World) -> dict[str, tuple[str, int]]:
    """Every living runner's epoch and pid."""
    return {r.name: (str(r.line_task and r.line_task.epoch), r.pid) for r in world.runners()}


def ready_world(home: Path, nodes: int = 2, memory_gib: float = 2.0) -> World:
    world = World(home, nodes=nodes, memory_gib=memory_gib)
    world.want(min_nodes=2)
    settle(world, 30.0)
    return world


def test_a_restarted_controller_leaves_a_standing_line_alone(tmp_path: Path) -> None:
    world = ready_world(tmp_path)
    before = lines(world)
    world.controller_up = False
    world.run(20.0)
    world.start_controller()
    settle(world, 3.0)
    assert lines(world) == before
    assert world.controller.book.term == 2


def test_a_full_disk_stops_neither_a_restart_nor_a_recovery(tmp_path: Path) -> None:
    world = ready_world(tmp_path)
    world.store._db.execute("PRAGMA query_only = ON")
    for _ in range(3):
        before = lines(world)
        world.controller_up = False
        world.run(1.0)
        world.start_controller()
        settle(world, 5.0)
        assert lines(world) == before
        kill_runner(world)
        world.run(0.5)
        settle(world, 30.0)
    assert world.store.term() == 1
    assert world.controller.book.term == 4, "beyond every term that the living have seen"


def test_a_control_path_that_is_cut_moves_nothing_while_tokens_flow(tmp_path: Path) -> None:
    world = ready_world(tmp_path)
    before, driver = lines(world), world.routes
    world.cut.add("node-1")
    world.run(200.0)
    assert world.controller.book.nodes["node-1"] == "unreachable"
    assert lines(world) == before
    assert world.routes is not None
    assert driver is not None
    assert [r.address for r in world.routes.routes] == [r.address for r in driver.routes]
    world.cut.clear()
    world.run(10.0)
    assert world.controller.book.nodes["node-1"] == "ready"
    assert lines(world) == before


def test_a_controller_that_slept_accuses_nobody(tmp_path: Path) -> None:
    world = ready_world(tmp_path)
    before = lines(world)
    world.pause_controller(30.0)
    world.run(10.0)
    assert lines(world) == before
    assert world.all_ready()


def test_a_hung_runner_is_replaced_and_its_neighbour_keeps_its_weights(tmp_path: Path) -> None:
    world = ready_world(tmp_path)
    first, second = sorted(world.runners(), key=lambda runner: runner.name)
    second.hung = True
    world.run(1.0)
    settle(world, 30.0)
    pids = {runner.pid for runner in world.runners()}
    assert first.pid in pids
    assert second.pid not in pids


def test_a_lost_nodes_layers_move_and_the_node_that_returns_is_cleared(tmp_path: Path) -> None:
    world = ready_world(tmp_path, nodes=3)
    world.nodes["node-2"].crash()
    world.run(4.0)
    settle(world, 30.0)
    assert {runner.node.name for runner in world.runners()} == {"node-1", "node-3"}
    world.nodes["node-2"].boot()
    world.run(30.0)
    assert {runner.node.name for runner in world.runners()} == {"node-1", "node-3"}


def test_without_the_node_it_waits_with_a_reason_and_resumes_when_it_comes(tmp_path: Path) -> None:
    world = ready_world(tmp_path)
    world.nodes["node-2"].crash()
    world.run(20.0)
    (inst,) = world.controller.book.instances.values()
    assert inst.state == "waiting"
    assert inst.reasons == (
        "waiting: rank 1 needs node-2, which is lost",
        "waiting: asked for at least 2 nodes, 1 node ready",
        "waiting: it goes on by itself when node-2 returns, another node joins, or memory is freed",
    )
    assert len(list(world.runners())) == 1, "rank 0 keeps its weights"
    world.nodes["node-2"].boot()
    settle(world, 30.0)


def test_a_cut_node_comes_back_and_what_was_moved_away_from_it_is_ended(tmp_path: Path) -> None:
    world = ready_world(tmp_path, nodes=3)
    for runner in list(world.runners()):
        if runner.node.name == "node-2":
            runner.hung = True
    world.cut.add("node-2")
    world.run(5.0)
    settle(world, 30.0)
    world.cut.clear()
    world.run(30.0)
    assert {runner.node.name for runner in world.runners()} == {"node-1", "node-3"}
    assert world.all_ready()
