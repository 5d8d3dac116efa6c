"""What may go wrong. A fault strikes something that is there, and most of them pass: what a fault
returns undoes it. `None` means that there was nothing to strike, `STAYS` that it does not pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import TypeVar

from msgspec.structs import replace

from paceline.lifecycle import RunnerEvent
from paceline.types.control import Ask, Assign
from paceline.types.ids import Epoch, Seat, TaskId
from paceline.types.states import TaskKind
from paceline.types.tasks import Connect, Drain, Fetch, Stop, Task, WarmUp
from tests.simulation.invariants import BY_HAND
from tests.simulation.node import SimNode
from tests.simulation.runner import Cause, SimRunner
from tests.simulation.world import CONTROL, GATEWAY, World

Undo = Callable[[], None]
Fault = Callable[[World, Random], Undo | None]
T = TypeVar("T")

LONGEST_S = 8.0
"""That a fault lasts which passes by itself."""


def STAYS() -> None:
    """What was done stays done."""


class Faults:
    """Strikes, counts, and undoes at the end what has not passed yet."""

    def __init__(self, world: World, random: Random) -> None:
        self.injected: Counter[str] = Counter()
        self._world = world
        self._random = random
        self._open: list[Undo] = []

    def strike(self, kind: str) -> None:
        undo = FAULTS[kind](self._world, self._random)
        if undo is None:
            return
        self.injected[kind] += 1
        self._world.note("FAULT {}", kind)
        if undo is not STAYS:
            self._open.append(undo)
            seconds = self._random.uniform(0.2, LONGEST_S)
            self._world.clock.after(seconds, self._pass, undo, kind)

    def end(self) -> None:
        """What hangs goes on hanging; everything else is well from now on."""
        for undo in tuple(self._open):
            self._pass(undo, "the rest")
        self._world.network.calm()

    def _pass(self, undo: Undo, kind: str) -> None:
        if undo in self._open:
            self._open.remove(undo)
            undo()
            self._world.note("over: {}", kind)


# --- the network ---------------------------------------------------------------------------------


def lose_messages(world: World, random: Random) -> Undo:
    world.network.loss = random.choice((0.05, 0.3, 0.7))
    return lambda: setattr(world.network, "loss", 0.0)


def repeat_messages(world: World, random: Random) -> Undo:
    world.network.repeat = random.choice((0.1, 0.5))
    return lambda: setattr(world.network, "repeat", 0.0)


def delay_messages(world: World, random: Random) -> Undo:
    world.network.delay_s = random.choice((0.2, 1.0, 2.5))
    return lambda: setattr(world.network, "delay_s", 0.0)


def shuffle_messages(world: World, random: Random) -> Undo:
    """Out of order even within a connection, as after a connection was lost and made again."""
    network = world.network
    network.shuffled, network.delay_s = True, max(network.delay_s, random.choice((0.1, 0.5, 1.5)))

    def undo() -> None:
        network.shuffled, network.delay_s = False, 0.0

    return undo


def silence_one_way(world: World, random: Random) -> Undo:
    node = _node(world, random).name
    return _cut(world, random.choice(([(node, CONTROL)], [(CONTROL, node)])))


def cut_off_node(world: World, random: Random) -> Undo:
    """From everyone."""
    node = _node(world, random).name
    return _cut(world, _both_ways(node, (CONTROL, GATEWAY, *world.nodes)))


def cut_off_controller(world: World, random: Random) -> Undo:
    """Ranks hear each other, and perhaps the gateway; the controller hears nobody."""
    places = (*world.nodes, GATEWAY) if random.random() < 0.5 else tuple(world.nodes)
    return _cut(world, _both_ways(CONTROL, places))


def cut_gateway(world: World, random: Random) -> Undo:
    place = random.choice((CONTROL, *world.nodes))
    return _cut(world, _both_ways(GATEWAY, (place,)))


def cut_link(world: World, random: Random) -> Undo | None:
    """Between two nodes; the controller hears both."""
    if len(world.nodes) < 2:
        return None
    one, other = random.sample(list(world.nodes), 2)
    return _cut(world, random.choice(([(one, other)], [(one, other), (other, one)])))


def lose_link(world: World, random: Random) -> Undo | None:
    """Between two nodes, for good: lines have to go another way."""
    if len(world.nodes) < 3:
        return None
    one, other = random.sample(list(world.nodes), 2)
    _cut(world, [(one, other), (other, one)])
    return STAYS


def _cut(world: World, ways: list[tuple[str, str]]) -> Undo:
    for way in ways:
        world.network.cut(*way)
    world.note("cut: {}", ways)

    def undo() -> None:
        for way in ways:
            world.network.mend(*way)

    return undo


def _both_ways(place: str, others: tuple[str, ...]) -> list[tuple[str, str]]:
    others = tuple(other for other in others if other != place)
    return [(place, other) for other in others] + [(other, place) for other in others]


# --- runners -------------------------------------------------------------------------------------


def crash_runner(world: World, random: Random) -> Undo | None:
    def crash(runner: SimRunner) -> None:
        runner.end(random.choice((-9, -11, 1)), Cause.CRASHED)

    return _to_runner(world, random, crash)


def hang_runner(world: World, random: Random) -> Undo | None:
    return _to_runner(world, random, lambda runner: setattr(runner, "hung", True))


def stick_runner(world: World, random: Random) -> Undo | None:
    """It beats, and what it computes does not go on."""
    runner = _any(random, _pumping(world))
    if runner is None or not runner.stick():
        return None
    world.note("{} is stuck in state {}", runner.name, runner.state)
    return STAYS


def outlast_kills(world: World, random: Random) -> Undo | None:
    """Its end takes the kernel a while, and its memory is in use until then."""
    return _to_runner(world, random, lambda runner: setattr(runner, "stubborn_s", 6.0))


def damage_frame(world: World, random: Random) -> Undo | None:
    return _to_rank(world, random, RunnerEvent.LINE_LOST, "a frame was damaged")


def fail_engine(world: World, random: Random) -> Undo | None:
    return _to_rank(world, random, RunnerEvent.ENGINE_FAILED, "a step gave NaN")


def send_stale_task(world: World, random: Random) -> Undo | None:
    """What an older controller has sent comes after what a newer one has."""
    runner = _any(random, [r for r in _pumping(world) if r.epoch and r.epoch > Epoch(1, 0)])
    if runner is None or runner.epoch is None:
        return None
    term, n = runner.epoch.term, runner.epoch.n
    epoch = Epoch(term, random.randrange(n)) if n else Epoch(term - 1, 9)
    task = _task(world, random, runner, epoch)
    world.network.send(CONTROL, "an older controller", runner.identity, Assign(task))
    return STAYS


def _task(world: World, random: Random, runner: SimRunner, epoch: Epoch) -> Task:
    name = TaskId(f"{BY_HAND}{next(world.numbers)}")
    if runner.seat_task is not None and random.random() < 0.3:
        return replace(runner.seat_task, task_id=name, epoch=epoch)
    seat = Seat(runner.seat_task.seat.instance if runner.seat_task else "i-0", 0)
    node = runner.node.name
    return random.choice(
        (
            Fetch(task_id=name, epoch=epoch, deadline_s=5.0, model="little"),
            Connect(
                task_id=name, epoch=epoch, deadline_s=5.0, seat=seat, world_size=1, nodes=(node,)
            ),
            WarmUp(task_id=name, epoch=epoch, deadline_s=5.0),
            Drain(task_id=name, epoch=epoch, deadline_s=5.0),
            Stop(task_id=name, epoch=epoch, deadline_s=5.0),
        )
    )


def hand_over_task(world: World, random: Random) -> Undo | None:
    """A person gives a task to a runner: of an older epoch, the present one, or one to come."""
    runner = _any(random, list(world.controller.book.runners))
    if runner is None or not world.answers:
        return None
    number = next(world.numbers)
    body: dict[str, object] = {
        "runner": runner,
        "kind": random.choice((*TaskKind, "dance")),
        "task_id": f"{BY_HAND}{number}",
        "deadline_s": 5.0,
    }
    if random.random() < 0.4:
        body["epoch"] = random.choice(("0.1", "1.1", "1.900", "7.1"))
    world.controller.take("person", Ask(number=number, verb="tasks.create", body=body))
    return STAYS


def fail_tasks(world: World, random: Random) -> Undo:
    world.task_failures = random.choice((0.1, 0.5, 1.0))
    return lambda: setattr(world, "task_failures", 0.0)


def _to_runner(world: World, random: Random, do: Callable[[SimRunner], None]) -> Undo | None:
    runner = _any(random, list(world.runners()))
    if runner is None:
        return None
    world.note("to {} in state {}:", runner.name, runner.state)
    do(runner)
    return STAYS


def _to_rank(world: World, random: Random, event: RunnerEvent, why: str) -> Undo | None:
    runner = _any(random, [runner for runner in _pumping(world) if runner.rank is not None])
    if runner is None:
        return None
    runner.lose_line(event, why)
    return STAYS


def _pumping(world: World) -> list[SimRunner]:
    return [runner for runner in world.runners() if runner.pumps]


# --- nodes ---------------------------------------------------------------------------------------


def drain_node(world: World, random: Random) -> Undo | None:
    node = _node(world, random).name
    if not world.drain(node, True):
        return None

    def undo() -> None:
        if not world.drain(node, False):
            world.clock.after(0.5, undo)

    return undo


def ask_node_to_leave(world: World, random: Random) -> Undo | None:
    return STAYS if _node(world, random).leave() else None


def crash_node(world: World, random: Random) -> Undo | None:
    node = _node(world, random)
    if not node.up:
        return None
    world.note("{} goes down", node.name)
    node.crash()
    return node.boot


def lose_node(world: World, random: Random) -> Undo | None:
    """It never comes back."""
    node = _node(world, random)
    if not node.up:
        return None
    world.note("{} goes down for good", node.name)
    node.crash()
    node.is_lost = True
    return STAYS


def flap_node(world: World, random: Random) -> Undo:
    """Away and back, again and again: the machine itself, or only its way to the controller."""
    node = _node(world, random)
    crashes, period_s = random.random() < 0.5, random.uniform(0.3, 4.0)
    away: list[Undo] = []
    going_on = [True]

    def toggle() -> None:
        if away:
            away.pop()()
        elif going_on:
            ways = _both_ways(node.name, (CONTROL,))
            away.append(_crashed(node) if crashes else _cut(world, ways))
        if going_on:
            world.clock.after(random.uniform(0.5, 1.5) * period_s, toggle)

    def undo() -> None:
        going_on.clear()
        while away:
            away.pop()()

    world.note("{} flaps", node.name)
    toggle()
    return undo


def _crashed(node: SimNode) -> Undo:
    node.crash()
    return node.boot


def pause_node(world: World, random: Random) -> Undo | None:
    """All of it stands still, as a virtual machine does that is moved."""
    node = _node(world, random)
    if not node.host.runs:
        return None
    world.note("{} stands still", node.name)
    node.host.pause()
    return node.host.resume


def slow_node(world: World, random: Random) -> Undo:
    node = _node(world, random)
    world.note("{} crawls", node.name)
    node.host.slowness = random.choice((3.0, 10.0))
    return lambda: setattr(node.host, "slowness", 1.0)


# --- controllers ---------------------------------------------------------------------------------


def restart_controller(world: World, random: Random) -> Undo | None:
    if len(world.controllers) != 1 or not world.control_host.runs:
        return None
    world.stop_controller()
    return lambda: world.control_host.reach(world.start_controller)


def restart_controller_at_once(world: World, random: Random) -> Undo | None:
    if len(world.controllers) != 1 or not world.control_host.runs:
        return None
    world.stop_controller()
    world.start_controller()
    return STAYS


def run_two_controllers(world: World, random: Random) -> Undo | None:
    """The old one goes on deciding and sending for a while after the new one has begun."""
    if len(world.controllers) != 1 or not world.control_host.runs or world.disk.refuses:
        return None
    (old,) = world.controllers
    world.start_controller()
    return lambda: world.stop_controller(old)


def pause_controller(world: World, random: Random) -> Undo | None:
    if not world.control_host.runs:
        return None
    world.control_host.pause()
    return world.control_host.resume


def restart_gateway(world: World, random: Random) -> Undo:
    world.restart_gateway()
    return STAYS


def refuse_writes(world: World, random: Random) -> Undo | None:
    if len(world.controllers) > 1:
        return None
    world.disk.refuse_writes(True)
    return lambda: world.disk.refuse_writes(False)


def fill_disk(world: World, random: Random) -> Undo | None:
    if len(world.controllers) > 1:
        return None
    world.disk.fill(True)
    return lambda: world.disk.fill(False)


def fail_pulls(world: World, random: Random) -> Undo:
    """A model is gone from the disk, and cannot be brought back for a while."""
    model = random.choice(("little", "large"))
    world.models.drop(model)
    return lambda: world.models.allow(model)


# --- users ---------------------------------------------------------------------------------------


def create_instance(world: World, random: Random) -> Undo | None:
    return STAYS if want_any(world, random) else None


def create_what_does_not_fit(world: World, random: Random) -> Undo | None:
    """Or only where another has gone."""
    return STAYS if world.want("large", kv_tokens=random.choice((4096, 200_000))) else None


def delete_instance(world: World, random: Random) -> Undo | None:
    name = _any(random, list(world.controller.book.instances))
    return STAYS if name is not None and world.unwant(name) else None


def open_streams(world: World, random: Random) -> Undo | None:
    for _ in range(random.randint(1, 3)):
        world.gateway.open_stream(random.choice(("little", "large")), random.randint(1, 30))
    return STAYS


def want_any(world: World, random: Random) -> str | None:
    model = random.choice(("little", "little", "large"))
    return world.want(model, min_nodes=min(random.choice((1, 1, 2, 2, 3, 4)), 5), kv_tokens=1024)


def _node(world: World, random: Random) -> SimNode:
    return random.choice(list(world.nodes.values()))


def _any(random: Random, things: list[T]) -> T | None:
    return random.choice(things) if things else None


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        lose_messages,
        repeat_messages,
        delay_messages,
        shuffle_messages,
        silence_one_way,
        cut_off_node,
        cut_off_controller,
        cut_gateway,
        cut_link,
        lose_link,
        crash_runner,
        hang_runner,
        stick_runner,
        hand_over_task,
        outlast_kills,
        damage_frame,
        fail_engine,
        send_stale_task,
        fail_tasks,
        drain_node,
        ask_node_to_leave,
        crash_node,
        lose_node,
        flap_node,
        pause_node,
        slow_node,
        restart_controller,
        restart_controller_at_once,
        run_two_controllers,
        pause_controller,
        restart_gateway,
        refuse_writes,
        fill_disk,
        fail_pulls,
        create_instance,
        create_what_does_not_fit,
        delete_instance,
        open_streams,
    )
}
