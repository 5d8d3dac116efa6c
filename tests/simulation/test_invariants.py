"""Each checker is broken once, so that its silence means something."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from paceline.controller import actions as do
from paceline.types.control import Event, Kill, Launch, Routes
from paceline.types.ids import Epoch
from paceline.types.states import TaskState
from paceline.types.stream import Token, Tokens
from paceline.types.tasks import Stop
from tests.simulation.invariants import INVARIANTS, Broken
from tests.simulation.runner import Cause, SimRunner
from tests.simulation.world import World


@pytest.fixture
def world() -> World:
    world = World(nodes=2)
    world.want(min_nodes=2)
    assert world.run(30.0, world.all_ready)
    return world


def first(world: World) -> SimRunner:
    return min(world.runners(), key=lambda runner: runner.name)


def test_there_is_one_checker_for_each_invariant() -> None:
    assert [checker.number for checker in INVARIANTS] == list(range(1, 9))


def test_1_a_runner_that_ends_unasked(world: World) -> None:
    with pytest.raises(Broken, match=r"invariant 1 .* stopped in state ready"):
        first(world).end(0, Cause.STOPPED)


def test_1_a_kill_that_nobody_was_told_of(world: World) -> None:
    with pytest.raises(Broken, match=r"invariant 1 .* was killed without a sentence"):
        first(world).end(-9, Cause.KILLED)


def test_2_a_task_that_ends_twice(world: World) -> None:
    tasks = world.controller.book.tasks
    name, entry = next(iter(tasks.items()))
    with pytest.raises(Broken, match=r"invariant 2 .* ended complete, and then became failed"):
        tasks[name] = replace(entry, state=TaskState.FAILED)


def test_2_a_task_that_does_not_end(world: World) -> None:
    tasks = world.controller.book.tasks
    entry = next(iter(tasks.values()))
    task = Stop(task_id="stop-x", epoch=Epoch(1, 1), deadline_s=1.0)
    tasks["stop-x"] = replace(entry, task=task, state=TaskState.PENDING, ordered_at=world.now - 9)
    with pytest.raises(Broken, match=r"invariant 2 .* stop-x is pending, 6.00 s past"):
        world.watch.turned(world.controllers[0])
    with pytest.raises(Broken, match="stop-x are not ended"):
        world.watch.rested()


def test_3_a_runner_that_heeds_an_older_epoch(world: World) -> None:
    runner = first(world)
    assert runner.mailbox is not None
    stale = Stop(task_id="stop-x", epoch=Epoch(1, 0), deadline_s=1.0)
    runner.mailbox.epoch = None

    def obey(task: Stop) -> None:
        assert runner.mailbox is not None
        runner.mailbox.epoch = task.epoch

    runner.mailbox.epoch = Epoch(1, 5)
    runner.deliver = obey  # type: ignore[method-assign]
    with pytest.raises(Broken, match=r"invariant 3 .* of epoch 1.0 changed r-1-1 of epoch 1.5"):
        world.watch.delivered(runner, stale)


@pytest.mark.parametrize("kind", [Kill, Launch])
def test_3_a_node_that_heeds_an_older_term(world: World, kind: type) -> None:
    node = world.nodes["node-1"]
    (name,) = node.runners
    order = {
        Kill: Kill(runner_id=name, grace_s=1.0, reason="of old", term=0),
        Launch: Launch(runner_id="r-0-9", incarnation="node-1.1", memory_bytes=1, term=0),
    }[kind]
    node.roster._is_stale = lambda order: False  # type: ignore[method-assign]
    with pytest.raises(Broken, match=r"invariant 3 .* changed node-1, which heeds term 1"):
        world.watch.ordered(node, order)


def test_3_a_gateway_that_heeds_an_older_term(world: World) -> None:
    gateway = world.gateway
    gateway.heed = lambda routes: setattr(gateway, "routes", routes)  # type: ignore[method-assign]
    with pytest.raises(Broken, match=r"invariant 3 .* routes of term 0 changed a gateway"):
        world.watch.routed(gateway, Routes(routes=(), instances=(), term=0))


@pytest.mark.parametrize("wrong", ["id", "twice"])
def test_4_a_stream_with_a_token_that_is_wrong_or_comes_twice(world: World, wrong: str) -> None:
    client = world.gateway.open_stream("smol", 5)
    assert world.run(10.0, lambda: len(client.got) == 2)
    token = Token(client.name, client.live.stream.attempt, 2, 1000 + 7)
    if wrong == "id":
        (link,) = world.gateway.links.values()
        assert link.driver is not None
        tokens = Tokens((token,))
        with pytest.raises(Broken, match=r"invariant 4 .* s-0 read"):
            link.driver.heed(tokens, world.now)
    else:
        client.got.append(client.got[-1])
        with pytest.raises(Broken, match=r"invariant 4 .* s-0 read"):
            world.watch.read(client)


def test_4_a_stream_that_does_not_end_though_its_model_is_served(world: World) -> None:
    world.gateway.open_stream("smol", 50)
    world.run(2.0)
    with pytest.raises(Broken, match=r"invariant 4 .* s-0 has not ended"):
        world.watch.rested()


def test_5_a_node_that_holds_more_than_it_has(world: World) -> None:
    node = world.nodes["node-1"]
    node.memory_bytes = 1
    with pytest.raises(Broken, match=r"invariant 5 .* node-1 holds"):
        world.watch.started(first(world))


def test_5_a_runner_that_is_struck_out_while_it_lives(world: World) -> None:
    with pytest.raises(Broken, match=r"invariant 5 .* lives on node-. and is not counted"):
        world.controller.book.runners.pop(first(world).name)


def test_5_a_shard_that_is_loaded_beyond_what_is_reserved(world: World) -> None:
    runner = first(world)
    assert runner.seat_task is not None
    more = replace(runner.seat_task, memory_bytes=2 * runner.seat_task.memory_bytes)
    with pytest.raises(Broken, match=r"invariant 5 .* are reserved"):
        world.watch.began(runner, more)


def test_6_an_instance_that_is_forgotten_while_its_runners_live(world: World) -> None:
    (name,) = world.controller.book.instances
    gone = do.Forget(sentence=f"{name} is gone", instance=name)
    with pytest.raises(Broken, match=r"invariant 6 .* is forgotten, and"):
        world.watch.checkers[5].acted(world.controllers[0], gone)


def test_6_a_stray_that_stays(world: World) -> None:
    (controller,) = world.controllers
    world.watch.calmed()
    world.controller.book.instances.clear()
    world.watch.turned(controller)
    world.clock.now += 31.0
    with pytest.raises(Broken, match=r"invariant 6 .* is on no seat for 31.0 s"):
        world.watch.turned(controller)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (None, "was not said"),
        ("something happened to a line", "does not name i-1"),
    ],
)
def test_7_an_action_without_a_sentence_that_names_it(
    world: World, said: str | None, words: str
) -> None:
    (controller,) = world.controllers
    action = do.BreakLine(sentence=said or "i-1 broke", instance="i-1", why="")
    if said:
        controller.events.add(action.kind, said)
    with pytest.raises(Broken, match=rf"invariant 7 .* {words}"):
        world.watch.checkers[6].acted(controller, action)


@pytest.mark.parametrize("kind", ["restless", "internal_error"])
def test_7_a_controller_that_stumbles(world: World, kind: str) -> None:
    event = Event(number=1, at=0.0, kind=kind, sentence="deciding failed")
    with pytest.raises(Broken, match=r"invariant 7 .* deciding failed"):
        world.watch.logged(world.controllers[0], event)


def launch(number: int) -> do.Action:
    return do.LaunchRunner(
        sentence="",
        instance="i-1",
        rank=0,
        runner=f"r-1-{number}",
        node="node-1",
        incarnation="a",
        memory_bytes=1,
    )


def open_line(number: int) -> do.Action:
    return do.OpenLine(sentence="", instance="i-1", epoch=Epoch(1, number))


@pytest.mark.parametrize("begin", [launch, open_line])
def test_8_a_seat_or_a_line_that_is_begun_too_often(
    world: World, begin: Callable[[int], do.Action]
) -> None:
    checker = world.watch.checkers[7]

    def begin_often() -> None:
        for number in range(30):
            checker.acted(world.controllers[0], begin(number))

    with pytest.raises(Broken, match=r"invariant 8 .* was begun"):
        begin_often()
