"""The controller with many nodes: how long a decision takes, and what facts cost.

The real controller and the real rosters, over the processes and the network of the simulation,
in virtual time. Milliseconds are of this process's CPU time.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from benchmarks.parts.works import Plan
from benchmarks.report import Result, Table, mib
from paceline.bench import quantile
from paceline.controller import controller as loop
from paceline.types.control import ToController
from tests.simulation.trace import quietly
from tests.simulation.world import World

NODES, INSTANCES, RANKS = 200, 100, 2
MEMORY_GIB = 2.0
SETTLED_S = 240.0
"""Virtual; by then everything is ready."""
CALM_S = 10.0
LOST = 5
MS = 1000.0


class Took(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of CPU, while something happens."""

    what: str
    decisions: list[float]
    """Each call of `decide`."""
    steps: list[float]
    """Each pass of the loop: every decision until there is none left, and acting on them."""


class Quiet:
    """In the place of the simulation's checkers, which would be measured too; what comes through
    them goes on."""

    def delivered(self, runner: Any, task: Any) -> None:
        runner.deliver(task)

    def ordered(self, node: Any, order: Any) -> None:
        node.obey(order)

    def routed(self, gateway: Any, routes: Any) -> None:
        gateway.heed(routes)

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_: None


def measure(_: Plan) -> Result:
    """Nothing of it matters: times are of CPU."""
    gc.collect()
    gc.freeze()  # a controller has imported none of what the benchmarks have
    with quietly():
        return _measured()


def _measured() -> Result:
    world = World(nodes=NODES, memory_gib=MEMORY_GIB)
    world.watch = Quiet()  # type: ignore[assignment]
    world.run(10.0)
    took = [_timed(world, f"{INSTANCES} instances are wanted at once", _want)]
    took.append(_timed(world, f"{CALM_S:g} s in which nothing happens", _rest))
    traffic = _traffic(world)
    took.append(_timed(world, f"{LOST} nodes are lost at once", _lose))
    data = {"took": msgspec.to_builtins(took), "traffic": traffic}
    return Result(tables=(_times(took), _facts(traffic)), data=data)


def _want(world: World) -> None:
    for _ in range(INSTANCES):
        world.want(min_nodes=RANKS, max_nodes=RANKS)
    _until_ready(world)


def _rest(world: World) -> None:
    world.run(CALM_S)


def _lose(world: World) -> None:
    used = dict.fromkeys(runner.node.name for runner in world.runners())
    for name in list(used)[:LOST]:
        world.nodes[name].crash()
    world.run(5.0)
    _until_ready(world)


def _until_ready(world: World) -> None:
    if not world.run(SETTLED_S, world.all_ready):
        raise AssertionError(f"not ready after {SETTLED_S:g} s: {world.told(5)}")


def _timed(world: World, what: str, happens: Callable[[World], None]) -> Took:
    took = Took(what=what, decisions=[], steps=[])
    with _into(loop, "decide", took.decisions), _into(world.controller, "step", took.steps):
        happens(world)
    return took


@contextmanager
def _into(owner: Any, name: str, times: list[float]) -> Iterator[None]:
    """Every call of that function is timed."""
    function = getattr(owner, name)

    def timed(*given: Any, **named: Any) -> Any:
        began = time.process_time()
        try:
            return function(*given, **named)
        finally:
            times.append(MS * (time.process_time() - began))

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, function)


def _traffic(world: World) -> dict[str, Any]:
    """Of facts and orders while all is well, and what the last word of everyone takes in memory."""
    sent: dict[str, Counter[str]] = {"messages": Counter(), "bytes": Counter()}
    last: dict[tuple[str, type], bytes] = {}
    send = world.network.send

    def counted(place: str, sender: str, to: str, message: Any) -> None:
        text = msgspec.msgpack.encode(message)
        way = "to the controller" if to == "controller" else "from the controller"
        sent["messages"][way] += 1
        sent["bytes"][way] += len(text)
        if to == "controller":
            last[sender, type(message)] = text
        send(place, sender, to, message)

    world.network.send = counted  # type: ignore[method-assign]
    try:
        world.run(CALM_S)
    finally:
        world.network.send = send  # type: ignore[method-assign]
    decoder = msgspec.msgpack.Decoder(ToController)
    tracemalloc.start()
    kept = [decoder.decode(text) for text in last.values()]
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "who": len(kept),
        "memory_bytes": memory,
        "messages_per_s": {way: n / CALM_S for way, n in sent["messages"].items()},
        "bytes_per_s": {way: n / CALM_S for way, n in sent["bytes"].items()},
    }


def _times(took: list[Took]) -> Table:
    def cells(times: list[float]) -> tuple[str, ...]:
        return tuple(f"{quantile(times, part):.1f}" for part in (0.5, 0.99, 1.0))

    return Table(
        title=f"Decisions about {NODES} nodes and {INSTANCES} instances: milliseconds of CPU",
        columns=(
            "while", "decisions", "median", "p99", "longest", "passes", "median", "p99", "longest",
        ),
        rows=tuple(
            (
                one.what,
                str(len(one.decisions)),
                *cells(one.decisions),
                str(len(one.steps)),
                *cells(one.steps),
            )
            for one in took
        ),
    )  # fmt: skip


def _facts(traffic: dict[str, Any]) -> Table:
    return Table(
        title=f"Facts of {NODES} nodes, and of the runners and the gateway, while all is well",
        columns=("", "messages/s", "KiB/s"),
        rows=tuple(
            (way, f"{rate:.0f}", f"{traffic['bytes_per_s'][way] / 2**10:.0f}")
            for way, rate in traffic["messages_per_s"].items()
        ),
        notes=(
            f"The last words of all {traffic['who']} take {mib(traffic['memory_bytes'])} in the "
            "controller.",
        ),
    )
