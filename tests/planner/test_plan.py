"""Placement: every layer once, budgets kept, reasons that name node, need and room."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.planner import MemoryModel, NodeBudget, plan
from paceline.planner.memory import GIB, MIB, PROCESS_BYTES
from paceline.planner.policy import policy_nodes
from paceline.types.errors import InvalidRequest
from paceline.types.instance import InstanceWish, NoPlacement, Placement
from paceline.types.model import PAGE_TOKENS, ModelFacts

SMOL = ModelFacts(
    name="smol", family="llama", digest="d", disk_bytes=270 * 10**6,
    layer_params=(3_540_096,) * 30, embed_params=28_311_552, head_params=28_312_128, tied=True,
    width=576, vocab_size=49152, kv_width=192, max_context=8192,
)  # fmt: skip


def wish(**options) -> InstanceWish:
    return InstanceWish(**{"id": "i-1", "model": "smol", "dtype": "float32"} | options)


def node(name: str, free: float, total: float | None = None) -> NodeBudget:
    return NodeBudget(name=name, memory_bytes=int(total or free), free_bytes=int(free))


def layers(placement: Placement) -> list[tuple[int, int]]:
    return [(seat.shard.start, seat.shard.stop) for seat in placement.seats]


def test_one_node_when_it_fits():
    placed = plan(SMOL, [node("a", 4 * GIB), node("b", 8 * GIB)], wish())
    assert isinstance(placed, Placement)
    assert [seat.node for seat in placed.seats] == ["b"]
    assert layers(placed) == [(0, 30)]
    assert "answers fastest" in placed.reasons[0]


def test_two_equal_nodes_share_evenly_and_the_one_with_the_logits_gets_less():
    placed = plan(SMOL, [node("a", 4 * GIB), node("b", 4 * GIB)], wish(min_nodes=2))
    assert [seat.node for seat in placed.seats] == ["a", "b"]
    assert layers(placed) == [(0, 16), (16, 30)]


def test_memory_takes_more_nodes_than_the_policy_and_says_so():
    small = [node(name, 700 * MIB) for name in "abcd"]
    placed = plan(SMOL, small, wish(kv_tokens=2048))
    assert placed.world_size == 2
    assert "beyond the policy's 1 node" in placed.reasons[0]


def test_max_nodes_is_never_exceeded_and_the_reasons_name_the_node():
    refused = plan(SMOL, [node("gremlin", 500 * MIB, 4 * GIB)] * 1, wish(max_nodes=1))
    assert isinstance(refused, NoPlacement)
    assert refused.reasons[0] == "smol does not fit on 1 node (max_nodes)"
    assert refused.reasons[1].startswith("gremlin: needs 1.")
    assert refused.reasons[1].endswith("for layers 0–29, has 500 MiB free of 4.0 GiB")


@pytest.mark.parametrize(
    ("nodes", "words"),
    [([], "no node is ready"), ([node("a", 8 * GIB)], "asked for at least 2 nodes, 1 node ready")],
)
def test_too_few_nodes_wait_with_a_reason(nodes, words):
    refused = plan(SMOL, nodes, wish(min_nodes=2))
    assert isinstance(refused, NoPlacement)
    assert words in refused.reasons[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_nodes": 0}, "at least 1"),
        ({"min_nodes": 3, "max_nodes": 2}, "must not be less"),
        ({"min_nodes": 31}, "only 30 layers"),
        ({"dtype": "float13"}, "float13"),
        ({"kv_tokens": 1}, "at least 512"),
    ],
)
def test_a_wish_that_no_cluster_could_meet_is_refused(options, words):
    with pytest.raises(InvalidRequest, match=words):
        plan(SMOL, [node("a", 8 * GIB)], wish(**options))


def test_a_replan_keeps_the_nodes_that_were():
    first = plan(SMOL, [node("a", 4 * GIB), node("b", 4 * GIB)], wish())
    now = [node("a", 4 * GIB), node("b", 6 * GIB)]
    assert plan(SMOL, now, wish(), sticky=first).seats[0].node == "a"
    assert plan(SMOL, [now[1]], wish(), sticky=first).seats[0].node == "b"


@pytest.mark.parametrize(
    ("gigabytes", "nodes"), [(0.86, 1), (1.99, 1), (2, 2), (9.9, 2), (10, 4), (400, 4)]
)
def test_policy_by_checkpoint_size(gigabytes, nodes):
    assert policy_nodes(int(gigabytes * 10**9)) == nodes


def test_a_tied_table_is_one_copy_on_one_rank_and_two_on_two():
    memory = MemoryModel(SMOL, "float32")
    whole = memory.weight_bytes(memory.shard(0, 30))
    split = memory.weight_bytes(memory.shard(0, 15)) + memory.weight_bytes(memory.shard(15, 30))
    assert whole == 4 * (30 * 3_540_096 + 28_312_128)
    assert split - whole == 4 * SMOL.embed_params


def test_kv_is_counted_per_layer_of_the_shard():
    memory = MemoryModel(SMOL, "float32")
    assert memory.kv_bytes(memory.shard(0, 10), 3) == 10 * 3 * PAGE_TOKENS * 2 * 192 * 4


budgets = st.lists(st.integers(PROCESS_BYTES, 4 * GIB), min_size=1, max_size=6)


@given(
    budgets=budgets,
    params=st.lists(st.integers(10**5, 10**8), min_size=1, max_size=24),
    tied=st.booleans(),
    least=st.integers(1, 4),
)
def test_every_layer_once_in_order_within_budget(budgets, params, tied, least):
    model = ModelFacts(
        name="m", family="llama", digest="d", disk_bytes=10**9, layer_params=tuple(params),
        embed_params=10**7, head_params=10**7 + 512, tied=tied, width=512, vocab_size=20000,
        kv_width=128, max_context=4096,
    )  # fmt: skip
    nodes = [node(f"n{i}", free) for i, free in enumerate(budgets)]
    asked = wish(min_nodes=min(least, len(params)))
    placed = plan(model, nodes, asked)
    assert placed == plan(model, list(reversed(nodes)), asked)
    if isinstance(placed, NoPlacement):
        assert placed.reasons
        return
    cuts = layers(placed)
    assert cuts[0][0] == 0
    assert cuts[-1][1] == len(params)
    assert all(a[1] == b[0] for a, b in pairwise(cuts))
    assert all(start < stop for start, stop in cuts)
    assert len({seat.node for seat in placed.seats}) == placed.world_size
    free = {n.name: n.free_bytes for n in nodes}
    assert all(seat.memory_bytes <= free[seat.node] for seat in placed.seats)
