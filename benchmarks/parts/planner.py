"""How long plans take, and how good the heuristic's are.

Milliseconds are of this process's CPU time, medians over different clusters.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from itertools import combinations

import msgspec

from benchmarks.parts.works import Plan
from benchmarks.report import Result, Table
from paceline.planner import MemoryModel, NodeBudget, plan
from paceline.planner.exact import EXACT_NODES
from paceline.planner.goal import load
from paceline.planner.heuristic import good_line
from paceline.planner.memory import PROCESS_BYTES
from paceline.planner.policy import Counts
from paceline.planner.search import exact_line
from paceline.planner.table import make_table
from paceline.types.ids import InstanceId, NodeName
from paceline.types.instance import InstanceWish, Placement
from paceline.types.links import Link, Links
from paceline.types.model import ModelFacts
from paceline.types.states import Objective

LAYERS = 128
CLUSTERS = 5
"""Per timing."""
COMPARED = 100
"""Clusters of up to EXACT_NODES nodes, for each objective."""
KV_TOKENS, KV_PAGES = 8192, 128
PEERS = 16
"""Measured edges per node in a large cluster."""

ROOMY, TIGHT = 0.4, 0.05
"""A node's room, as a part of what the whole model takes."""


class Timing(msgspec.Struct, frozen=True):
    what: str
    ms: float
    low: float
    high: float
    ranks: int


class Quality(msgspec.Struct, frozen=True):
    """The heuristic against the exact search: load of its line over the least load."""

    what: str
    clusters: int
    mean: float
    worst: float
    beyond_5_percent: int
    missed: int
    """Where it found no line though there is one."""


def timings() -> Iterator[Timing]:
    sizes = [(EXACT_NODES, "exact"), (64, "heuristic"), (1000, "heuristic")]
    for count, how in sizes:
        for room, said in ((ROOMY, "roomy"), (TIGHT, "tight")):
            if count * room < 1.5:
                continue
            for objective in Objective:
                what = f"{count} nodes × {LAYERS} layers, {said}, {objective.value} ({how})"
                yield _timed(what, count, room, objective)


def qualities() -> Iterator[Quality]:
    for objective in Objective:
        for uneven in (False, True):
            yield _compared(objective, uneven)


def measure(_: Plan) -> Result:
    """Nothing of it matters: times are of CPU, over different clusters."""
    timed, compared = list(timings()), list(qualities())
    quickness = Table(
        title="Plans: milliseconds of CPU, median over clusters (lowest–highest)",
        columns=("cluster", "ms", "ranks"),
        rows=tuple(
            (one.what, f"{one.ms:.1f} ({one.low:.0f}–{one.high:.0f})", str(one.ranks))
            for one in timed
        ),
    )
    closeness = Table(
        title="The heuristic's plans over the exact ones: load",
        columns=("clusters", "mean", "worst", "beyond 5 %", "missed"),
        rows=tuple(
            (
                f"{one.clusters}: {one.what}",
                f"{one.mean:.4f}",
                f"{one.worst:.3f}",
                str(one.beyond_5_percent),
                str(one.missed),
            )
            for one in compared
        ),
    )
    data = {"timings": msgspec.to_builtins(timed), "quality": msgspec.to_builtins(compared)}
    return Result(tables=(quickness, closeness), data=data)


def _timed(what: str, count: int, room: float, objective: Objective) -> Timing:
    took, ranks = [], []
    for seed in range(CLUSTERS):
        rng = random.Random(seed)
        model = _model(rng, LAYERS, uneven=False)
        nodes, links = _large_cluster(rng, model, count, room)
        wish = InstanceWish(id=InstanceId("i"), model="m", objective=objective, kv_tokens=KV_TOKENS)
        began = time.process_time()
        placed = plan(model, nodes, wish, links=links)
        took.append(1000 * (time.process_time() - began))
        ranks.append(placed.world_size if isinstance(placed, Placement) else 0)
    middle = statistics.median(took)
    return Timing(what, middle, min(took), max(took), int(statistics.median(ranks)))


def _compared(objective: Objective, uneven: bool) -> Quality:
    rng = random.Random(f"{objective} {uneven}")
    ratios: list[float] = []
    missed = 0
    while len(ratios) + missed < COMPARED:
        model = _model(rng, rng.randint(2, 40), uneven)
        nodes, links = _small_cluster(rng, model)
        table = make_table(MemoryModel(model, "float32"), nodes, links, KV_PAGES)
        counts = Counts(rng.randint(1, 2), 4, 4) if len(nodes) > 4 else Counts(1, 2, 2)
        exact, good = (search(table, objective, counts) for search in (exact_line, good_line))
        if exact and good:
            ratios.append(load(table, objective, good) / load(table, objective, exact))
        missed += exact is not None and good is None
    layers = "layers ± 30 %" if uneven else "layers alike"
    return Quality(
        what=f"heuristic over exact, ≤ {EXACT_NODES} nodes, {objective.value}, {layers}",
        clusters=COMPARED,
        mean=statistics.mean(ratios),
        worst=max(ratios),
        beyond_5_percent=sum(ratio > 1.05 for ratio in ratios),
        missed=missed,
    )


def _model(rng: random.Random, layers: int, uneven: bool) -> ModelFacts:
    """Each layer of 100 to 900 million parameters."""
    size, vocab, width = rng.randint(10**8, 9 * 10**8), rng.choice([32_000, 128_000]), 4096
    params = tuple(int(size * rng.uniform(0.7, 1.3)) if uneven else size for _ in range(layers))
    return ModelFacts(
        name="m", family="llama", digest="d", disk_bytes=2 * sum(params), layer_params=params,
        embed_params=vocab * width, head_params=vocab * width, tied=False, width=width,
        vocab_size=vocab, kv_width=1024, max_context=8192,
    )  # fmt: skip


def _whole(model: ModelFacts) -> int:
    memory = MemoryModel(model, "float32")
    return memory.rank_bytes(memory.shard(0, memory.layers), KV_PAGES) - PROCESS_BYTES


def _node(rng: random.Random, number: int, allocatable: float) -> NodeBudget:
    free = PROCESS_BYTES + int(allocatable)
    return NodeBudget(
        name=NodeName(f"n{number:04}"),
        memory_bytes=free,
        free_bytes=free,
        seconds_per_byte=10 ** rng.uniform(-11, -10),
    )


def _link(rng: random.Random, a: NodeBudget, b: NodeBudget) -> Link:
    return Link(
        a=a.name,
        b=b.name,
        round_trip_s=10 ** rng.uniform(-4, -1.5),
        bytes_per_s=10 ** rng.uniform(7, 9),
        bad=rng.random() < 0.02,
    )


def _large_cluster(
    rng: random.Random, model: ModelFacts, count: int, room: float
) -> tuple[list[NodeBudget], Links]:
    whole = _whole(model)
    nodes = [_node(rng, i, rng.uniform(0.6, 1.4) * room * whole) for i in range(count)]
    peers = [(a, b) for a in nodes for b in rng.sample(nodes, min(PEERS, count)) if a is not b]
    return nodes, Links(measured=tuple(_link(rng, a, b) for a, b in peers))


def _small_cluster(rng: random.Random, model: ModelFacts) -> tuple[list[NodeBudget], Links]:
    whole = _whole(model)
    nodes = [
        _node(rng, i, rng.uniform(0.05, 1.2) * whole) for i in range(rng.randint(2, EXACT_NODES))
    ]
    nodes.sort(key=lambda node: -node.free_bytes)
    pairs = [pair for pair in combinations(nodes, 2) if rng.random() < 0.8]
    return nodes, Links(measured=tuple(_link(rng, a, b) for a, b in pairs))
