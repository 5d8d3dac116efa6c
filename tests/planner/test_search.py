"""The search against trying everything, and the heuristic against the exact search."""

import random
from itertools import pairwise

import pytest
from msgspec.structs import replace

from paceline.planner.exact import EXACT_NODES
from paceline.planner.goal import load
from paceline.planner.heuristic import good_line
from paceline.planner.policy import Counts
from paceline.planner.search import best_line, exact_line
from paceline.planner.table import NEVER, Line, Table, make_table
from paceline.types.model import Shard
from paceline.types.states import Objective
from tests.planner.clusters import (
    KV_PAGES,
    BruteForce,
    random_cluster,
    random_counts,
    random_model,
)

WITHIN = 1.05


def table_of(facts, nodes, links) -> tuple[BruteForce, Table]:
    nodes = sorted(nodes, key=lambda one: (-one.free_bytes, one.name))
    brute = BruteForce(facts, nodes, links)
    return brute, make_table(brute.memory, nodes, links, KV_PAGES)


def parts(brute: BruteForce, line: Line):
    return [(brute.nodes[index], start, stop) for index, start, stop in line.parts]


@pytest.mark.parametrize("seed", range(30))
def test_the_exact_search_finds_what_trying_everything_finds(seed):
    rng = random.Random(seed)
    for _ in range(100):
        facts = random_model(rng, rng.randint(1, 6), uneven=rng.random() < 0.5)
        nodes, links = random_cluster(rng, facts, rng.randint(1, 4))
        brute, table = table_of(facts, nodes, links)
        counts = random_counts(rng, len(nodes), brute.memory.layers)
        objective = rng.choice(list(Objective))
        best = brute.best(objective, counts)
        line = exact_line(table, objective, counts)
        assert (line is None) == (best is None)
        if line:
            assert brute.value(objective, parts(brute, line)) == pytest.approx(best, rel=1e-6)
            assert fits(table, line)


@pytest.mark.parametrize("objective", list(Objective))
@pytest.mark.parametrize("seed", range(4))
def test_the_exact_search_among_eight_nodes(seed, objective):
    rng = random.Random(f"{seed} {objective}")
    facts = random_model(rng, 6, uneven=True)
    nodes, links = random_cluster(rng, facts, EXACT_NODES)
    brute, table = table_of(facts, nodes, links)
    counts = Counts(1, 3, 4)
    best = brute.best(objective, counts)
    line = best_line(table, objective, counts)
    assert (line is None) == (best is None)
    if line:
        assert brute.value(objective, parts(brute, line)) == pytest.approx(best, rel=1e-6)


def test_layers_that_are_loaded_already_are_found_by_the_exact_search():
    rng = random.Random(7)
    reused = 0
    for _ in range(100):
        facts = random_model(rng, 5, uneven=rng.random() < 0.5)
        nodes, links = random_cluster(rng, facts, 3)
        brute, _ = table_of(facts, nodes, links)
        lines = [line for count in (1, 2, 3) for line in brute.lines(count)]
        if not lines:
            continue
        holder, start, stop = rng.choice(rng.choice(lines))
        holds = (Shard(start=start, stop=stop, layers=5),)
        held = replace(holder, holds=holds, on_disk=rng.random() < 0.5)
        nodes = [held if one.name == held.name else one for one in nodes]
        brute, table = table_of(facts, nodes, links)
        at = {one.name: i for i, one in enumerate(brute.nodes)}
        objective = rng.choice([Objective.LATENCY, Objective.THROUGHPUT])
        best = min(
            (load(table, objective, each), table.latency(each))
            for line in lines
            for each in [Line(tuple(at[n.name] for n, _, _ in line), tuple(p[2] for p in line))]
        )
        found = exact_line(table, objective, Counts(1, 3, 3))
        assert found
        assert best == (load(table, objective, found), table.latency(found))
        reused += (at[held.name], start, stop) in found.parts
    assert reused > 10


@pytest.mark.parametrize("objective", list(Objective))
@pytest.mark.parametrize("uneven", [False, True])
def test_the_heuristic_is_within_a_twentieth_of_the_exact_search(objective, uneven):
    rng = random.Random(f"{objective} {uneven}")
    compared = 0
    for _ in range(80):
        facts = random_model(rng, rng.randint(2, 40), uneven=uneven)
        nodes, links = random_cluster(rng, facts, rng.randint(2, EXACT_NODES))
        _, table = table_of(facts, nodes, links)
        counts = random_counts(rng, len(nodes), table.layers)
        exact = exact_line(table, objective, counts)
        good = good_line(table, objective, counts)
        assert (good is None) == (exact is None)
        if exact and good and len(good.nodes) <= max(counts.most, len(exact.nodes)):
            assert load(table, objective, good) <= WITHIN * load(table, objective, exact)
            assert fits(table, good)
            compared += 1
    assert compared > 30


def fits(table: Table, line: Line) -> bool:
    return all(table.bytes(start, stop) <= table.room[node] for node, start, stop in line.parts)


def proportional(table: Table, count: int) -> Line | None:
    """Layers in proportion to memory on the nodes with the most of it; None where that does not
    fit, or leads over a bad edge."""
    shares = [int(table.room[i]) for i in range(count)]
    stops = [round(table.layers * sum(shares[: i + 1]) / sum(shares)) for i in range(count)]
    line = Line(tuple(range(count)), tuple(stops))
    whole = all(a < b for a, b in pairwise((0, *stops)))
    return line if whole and fits(table, line) and table.hops(line.nodes) < NEVER else None


@pytest.mark.parametrize("objective", list(Objective))
@pytest.mark.parametrize("seed", range(3))
def test_never_worse_than_layers_in_proportion_to_memory(seed, objective):
    rng = random.Random(f"{seed} {objective}")
    compared = 0
    for _ in range(15):
        facts = random_model(rng, rng.randint(12, 60), uneven=rng.random() < 0.5)
        nodes, links = random_cluster(rng, facts, rng.randint(9, 24))
        _, table = table_of(facts, nodes, links)
        counts = Counts(2, 4, len(nodes))
        found = best_line(table, objective, counts)
        for count in (2, 3, 4):
            usual = proportional(table, min(count, table.count))
            if usual:
                assert found
                assert load(table, objective, found) <= load(table, objective, usual)
                compared += 1
    assert compared > 5
