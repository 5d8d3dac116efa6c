"""One fault at a time, and what it must leave untouched."""

from __future__ import annotations

from itertools import pairwise

import pytest

from paceline.process.backoff import LONGEST_DELAY_S
from paceline.types.states import RunnerState
from tests.simulation.runner import Cause, SimRunner
from tests.simulation.world import CONTROL, GATEWAY, World


def settle(world: World, seconds: float) -> None:
    assert world.run(seconds, world.all_ready), world.told()


def lines(world: World) -> dict[str, tuple[str, int]]:
    """Every living runner's epoch and pid."""
    return {r.name: (str(r.rank and r.rank.epoch), r.pid) for r in world.runners()}


def ready_world(nodes: int = 2, blanks: int = 0) -> World:
    world = World(nodes=nodes, memory_gib=2.0, blanks=blanks)
    world.want(min_nodes=2)
    settle(world, 30.0)
    return world


def by_name(world: World) -> list[SimRunner]:
    return sorted(world.runners(), key=lambda runner: runner.name)


def isolate(world: World, *nodes: str) -> None:
    """From the controller, both ways."""
    for node in nodes:
        world.network.cut(node, CONTROL)
        world.network.cut(CONTROL, node)


def reach_again(world: World, *nodes: str) -> None:
    for node in nodes:
        world.network.mend(node, CONTROL)
        world.network.mend(CONTROL, node)


# --- the controller -------------------------------------------------------------------------------


def test_a_restarted_controller_leaves_a_standing_line_alone() -> None:
    world = ready_world()
    before = lines(world)
    world.stop_controller()
    world.run(20.0)
    world.start_controller()
    settle(world, 3.0)
    assert lines(world) == before
    assert world.controller.book.term == 2


def test_a_full_disk_stops_neither_a_restart_nor_a_recovery() -> None:
    world = ready_world()
    world.disk.fill(True)
    for _ in range(3):
        before = lines(world)
        world.stop_controller()
        world.run(1.0)
        world.start_controller()
        settle(world, 5.0)
        assert lines(world) == before
        by_name(world)[0].end(-9, Cause.CRASHED)
        world.run(0.5)
        settle(world, 30.0)
    assert world.store.term() == 1
    assert world.controller.book.term == 4, "beyond every term that the living have seen"
    assert world.disk.lost_lines


def test_a_controller_that_slept_accuses_nobody() -> None:
    world = ready_world()
    before = lines(world)
    world.control_host.pause()
    world.run(30.0)
    world.control_host.resume()
    world.run(10.0)
    assert lines(world) == before
    assert world.all_ready()


def test_of_two_controllers_the_older_ends_and_moves_nothing() -> None:
    world = ready_world()
    before, (old,) = lines(world), world.controllers
    world.start_controller()
    world.run(2.0)
    assert not old.alive
    assert "a newer controller is in office: term 2 is heeded" in old.controller.deposed
    assert [each.controller.book.term for each in world.controllers] == [2]
    settle(world, 10.0)
    assert lines(world) == before


def test_two_controllers_that_hear_nothing_of_each_other_launch_and_kill_nothing_twice() -> None:
    """The older one hears only an old node and knows of no newer term."""
    world = ready_world(nodes=3)
    (old,) = world.controllers
    new = world.start_controller()
    world.network.leave("controller", old._end)
    by_name(world)[0].end(-9, Cause.CRASHED)
    world.run(20.0)
    assert old.alive
    assert world.controllers == [old, new]
    assert world.all_ready(), world.told()
    assert len(list(world.runners())) == 2


def test_a_term_that_only_a_gateway_remembers_is_risen_above() -> None:
    """The store was replaced by an empty one, and no runner lives that could tell."""
    world = World(nodes=1)
    world.run(2.0)
    for _ in range(3):
        world.stop_controller()
        world.start_controller()
        world.run(2.0)
    world.stop_controller()
    world.disk.store._db.execute("DELETE FROM cluster")
    world.start_controller()
    world.want()
    settle(world, 30.0)
    assert world.controller.book.term == 5


# --- silence --------------------------------------------------------------------------------------


def test_a_control_path_that_is_cut_moves_nothing_while_tokens_flow() -> None:
    world = ready_world()
    before, driver = lines(world), world.routes
    client = world.gateway.open_stream("smol", 600)
    isolate(world, "node-1")
    world.run(200.0)
    assert world.controller.book.nodes["node-1"] == "unreachable"
    assert lines(world) == before
    assert world.routes is not None
    assert driver is not None
    assert [r.address for r in world.routes.routes] == [r.address for r in driver.routes]
    assert (client.ended, client.live.stream.attempt) == (True, 1)
    reach_again(world, "node-1")
    world.run(10.0)
    assert world.controller.book.nodes["node-1"] == "ready"
    assert lines(world) == before


@pytest.mark.parametrize("gateway_is_cut", [False, True])
def test_a_controller_cut_off_from_all_nodes_moves_nothing_while_tokens_flow(
    gateway_is_cut: bool,
) -> None:
    """Ranks hear each other and the gateway. It says so if it is heard; if nobody is heard at all,
    it is the controller that is away."""
    world = ready_world()
    before = lines(world)
    others = (*world.nodes, GATEWAY) if gateway_is_cut else tuple(world.nodes)
    client = world.gateway.open_stream("smol", 60)
    isolate(world, *others)
    world.run(40.0)
    assert client.ended
    assert set(world.controller.book.nodes.values()) == {"unreachable"}
    reach_again(world, *others)
    world.run(10.0)
    assert lines(world) == before


def test_a_cut_node_comes_back_and_what_was_moved_away_from_it_is_ended() -> None:
    world = ready_world(nodes=3)
    for runner in by_name(world):
        if runner.node.name == "node-2":
            runner.hung = True
    isolate(world, "node-2")
    world.run(5.0)
    settle(world, 30.0)
    reach_again(world, "node-2")
    world.run(30.0)
    assert {runner.node.name for runner in world.runners()} == {"node-1", "node-3"}
    assert world.all_ready()


def test_a_node_that_stood_still_is_itself_again() -> None:
    world = ready_world()
    before = {runner.pid for runner in world.runners()}
    world.nodes["node-2"].host.pause()
    world.run(2.0)
    world.nodes["node-2"].host.resume()
    world.run(1.0)
    settle(world, 20.0)
    assert {runner.pid for runner in world.runners()} == before, "it lost nothing"


# --- runners and nodes ----------------------------------------------------------------------------


def test_a_hung_runner_is_replaced_and_its_neighbour_keeps_its_weights() -> None:
    world = ready_world()
    first, second = by_name(world)
    second.hung = True
    world.run(1.0)
    settle(world, 30.0)
    pids = {runner.pid for runner in world.runners()}
    assert first.pid in pids
    assert second.pid not in pids


@pytest.mark.parametrize("rank", [0, 1])
def test_a_runner_that_beats_and_does_not_work_is_replaced(rank: int) -> None:
    world = ready_world()
    client = world.gateway.open_stream("smol", 100)
    world.run(2.0)
    stuck = by_name(world)[rank]
    assert stuck.stick()
    settled = world.run(60.0, lambda: not stuck.alive) and world.run(60.0, world.all_ready)
    assert settled, world.told()
    assert world.run(60.0, lambda: client.ended)
    assert client.got == client.expected


def test_a_process_that_the_kernel_does_not_end_holds_its_memory_until_it_does() -> None:
    world = ready_world()
    first, second = by_name(world)
    second.stubborn_s = 20.0
    second.hung = True
    world.run(15.0)
    assert [r.name for r in by_name(world)] == [first.name, second.name], "there is no room"
    world.run(15.0)
    settle(world, 30.0)
    assert not second.alive


def test_a_lost_nodes_layers_move_and_the_node_that_returns_is_cleared() -> None:
    world = ready_world(nodes=3)
    world.nodes["node-2"].crash()
    world.run(4.0)
    settle(world, 30.0)
    assert {runner.node.name for runner in world.runners()} == {"node-1", "node-3"}
    world.nodes["node-2"].boot()
    world.run(30.0)
    assert {runner.node.name for runner in world.runners()} == {"node-1", "node-3"}


def test_without_the_node_it_waits_with_a_reason_and_resumes_when_it_comes() -> None:
    world = ready_world()
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


def test_a_hung_runner_of_a_waiting_instance_gives_its_memory_back() -> None:
    world = ready_world()
    world.nodes["node-2"].crash()
    world.run(5.0)
    (kept,) = world.runners()
    kept.hung = True
    assert world.run(20.0, lambda: not list(world.runners())), world.told()


def test_a_deletion_is_not_held_up_by_what_a_lost_node_had() -> None:
    world = ready_world()
    (name,) = world.controller.book.instances
    world.stop_controller()
    world.nodes["node-2"].crash()
    world.start_controller()
    assert world.unwant(name)
    assert world.run(30.0, lambda: world.state(name) == "gone"), world.told()


# --- again and again ------------------------------------------------------------------------------


def crash_loop(world: World, times: int) -> list[float]:
    """Ends the second rank's runner whenever it has loaded; gives the moments of its launches."""
    for _ in range(times):
        found = world.run(60.0, lambda: _second(world) is not None)
        assert found, world.told()
        second = _second(world)
        assert second is not None
        second.end(-11, Cause.CRASHED)
    launches = [e.at for e in world.events.since(0) if e.kind == "launch" and "i-1/1" in e.sentence]
    return launches[1:]


def _second(world: World) -> SimRunner | None:
    for runner in world.runners():
        seat = runner.seat_task
        if seat is not None and seat.seat.rank == 1 and runner.state is not RunnerState.LOADING:
            return runner
    return None


def test_the_first_restart_is_immediate_and_the_pauses_grow_but_never_end() -> None:
    world = ready_world()
    world.run(15.0)
    lost_at = world.now
    launches = crash_loop(world, 14)
    assert launches[0] - lost_at < 1.0
    pauses = [after - before for before, after in pairwise(launches)]
    assert min(pauses[-3:]) > LONGEST_DELAY_S > max(pauses[:2])
    assert all(pause < LONGEST_DELAY_S + 6.0 for pause in pauses), "start and load, and the pause"
    assert world.state("i-1") == "failed", "it is called so, and tried on"
    settle(world, 60.0)
    world.run(15.0)
    (inst,) = world.controller.book.instances.values()
    assert inst.is_fresh, "health lets it forget"


def test_a_flapping_node_does_not_flap_its_instance() -> None:
    """It has the memory, comes back for a second at a time, and is given nothing."""
    world = World(nodes=2, memory_gib=(2.0, 1.0))
    world.want()
    settle(world, 20.0)
    node = world.nodes["node-1"]
    launches = world.events.counts["launch"]
    for _ in range(20):
        node.crash()
        world.run(4.0)
        node.boot()
        world.run(1.0)
    assert world.events.counts["launch"] - launches <= 2, world.told()
    settle(world, 30.0)
