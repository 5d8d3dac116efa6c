"""Models and clusters to plan for, drawn at random or put down by hand, and the plainest possible
search: every order, every cut."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations, pairwise, permutations

from paceline.planner.budget import DEFAULT_SECONDS_PER_BYTE, NodeBudget
from paceline.planner.memory import PROCESS_BYTES, MemoryModel
from paceline.planner.policy import Counts
from paceline.types.instance import InstanceWish, Placement
from paceline.types.links import Link, Links
from paceline.types.model import ModelFacts
from paceline.types.states import Objective

KV_PAGES = 16

Part = tuple[NodeBudget, int, int]


def wish(**options) -> InstanceWish:
    """In float32, for which the tests' memories are sized."""
    given = {"kv_tokens": 1024, "dtype": "float32"} | options
    return InstanceWish(id="i-1", model="m", **given)


def node(name: str, free: float, total: float | None = None, **facts) -> NodeBudget:
    return NodeBudget(name=name, memory_bytes=int(total or free), free_bytes=int(free), **facts)


def model(
    layers: tuple[int, ...], vocab: int = 20_000, width: int = 512, tied: bool = False, **facts
) -> ModelFacts:
    given = {"disk_bytes": 10**9, "max_context": 4096, "kv_width": 128, "depth_divisor": 64} | facts
    return ModelFacts(
        name="m", family="llama", digest="d", layer_params=layers, embed_params=vocab * width,
        head_params=vocab * width + width, tied=tied, width=width, vocab_size=vocab, **given,
    )  # fmt: skip


def random_model(rng: random.Random, layers: int, *, uneven: bool) -> ModelFacts:
    """Layers alike, or up to 30 % smaller and larger than the middle."""
    size = rng.randint(10**6, 3 * 10**7)
    spread = [rng.uniform(0.7, 1.3) if uneven else 1.0 for _ in range(layers)]
    vocab = rng.choice([1000, 20_000, 50_000])
    return model(tuple(int(size * s) for s in spread), vocab=vocab, tied=rng.random() < 0.5)


def random_cluster(
    rng: random.Random, facts: ModelFacts, count: int
) -> tuple[list[NodeBudget], Links]:
    """Nodes that hold from next to nothing to the whole model, half of the clusters of one speed;
    most edges measured, some of them bad."""
    memory = MemoryModel(facts, "float32")
    whole = memory.rank_bytes(memory.shard(0, memory.layers), KV_PAGES) - PROCESS_BYTES
    alike = rng.random() < 0.5
    nodes = [
        node(
            f"n{i}",
            PROCESS_BYTES + rng.uniform(0.05, 1.0) * whole * rng.choice([0.4, 0.8, 1.2]),
            seconds_per_byte=1e-10 if alike else 10 ** rng.uniform(-10.5, -9),
        )
        for i in range(count)
    ]
    measured = [
        Link(
            a=one.name,
            b=other.name,
            round_trip_s=10 ** rng.uniform(-4, -1.5),
            bytes_per_s=10 ** rng.uniform(6.5, 9),
            bad=rng.random() < 0.05,
        )
        for one, other in combinations(nodes, 2)
        if rng.random() < 0.8
    ]
    return nodes, Links(measured=tuple(measured))


def random_counts(rng: random.Random, nodes: int, layers: int) -> Counts:
    ceiling = rng.randint(1, min(nodes, layers))
    most = rng.randint(1, ceiling)
    return Counts(rng.randint(1, most), most, ceiling)


def layers(placement: Placement) -> list[tuple[int, int]]:
    return [(seat.shard.start, seat.shard.stop) for seat in placement.seats]


class BruteForce:
    """Tries everything. Shares the memory model with the planner, and no line of its search."""

    def __init__(self, facts: ModelFacts, nodes: list[NodeBudget], links: Links) -> None:
        self.memory = MemoryModel(facts, "float32")
        self.nodes = nodes
        self._links = links
        self._edges = {frozenset((link.a, link.b)): link for link in links.measured}

    def best(self, objective: Objective, counts: Counts) -> tuple[float, float] | None:
        """(what the objective minimises, seconds per token) of the best line there is."""
        found: list[tuple[float, float]] = []
        for count in range(counts.least, counts.ceiling + 1):
            found += [self.value(objective, line) for line in self.lines(count)]
            if found and count >= counts.most:
                break
        return min(found, default=None)

    def lines(self, count: int) -> Iterator[list[Part]]:
        last = self.memory.layers
        for order in permutations(self.nodes, count):
            ring = list(zip(order, (*order[1:], order[0]), strict=True)) if count > 1 else []
            if any(self.link(a, b).bad for a, b in ring):
                continue
            for cuts in combinations(range(1, last), count - 1):
                stops = pairwise((0, *cuts, last))
                line = [(n, a, b) for n, (a, b) in zip(order, stops, strict=True)]
                if all(self.need(part) <= part[0].free_bytes for part in line):
                    yield line

    def value(self, objective: Objective, line: list[Part]) -> tuple[float, float]:
        stages = [self.stage_s(part) for part in line]
        onward = [self.link(a[0], b[0]) for a, b in pairwise(line)]
        carried = [(4 * self.memory.model.width + 256) / link.bytes_per_s for link in onward]
        trips = [link.round_trip_s / 2 for link in onward]
        if onward:
            trips.append(self.link(line[-1][0], line[0][0]).round_trip_s / 2)
        latency = sum(stages) + sum(carried) + sum(trips)
        return {
            Objective.LATENCY: (latency, latency),
            Objective.THROUGHPUT: (max(*stages, 0.0, *carried), latency),
            Objective.MEMORY: (float(max(self.need(part) for part in line)), latency),
        }[objective]

    def need(self, part: Part) -> int:
        return self.memory.rank_bytes(self.memory.shard(part[1], part[2]), KV_PAGES)

    def stage_s(self, part: Part) -> float:
        who, start, stop = part
        params = sum(self.memory.model.layer_params[start:stop])
        params += self.memory.model.head_params if stop == self.memory.layers else 0
        return 4 * params * (who.seconds_per_byte or DEFAULT_SECONDS_PER_BYTE)

    def link(self, a: NodeBudget, b: NodeBudget) -> Link:
        usual = Link(
            a=a.name,
            b=b.name,
            round_trip_s=self._links.round_trip_s,
            bytes_per_s=self._links.bytes_per_s,
        )
        return self._edges.get(frozenset((a.name, b.name)), usual)
