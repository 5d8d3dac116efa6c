"""Placement: how many nodes, which, and the reasons."""

from itertools import pairwise

import pytest
from msgspec.structs import replace

from paceline.planner import MemoryModel, NodeBudget, plan, preview
from paceline.planner.plan import MOVE_GAIN
from paceline.planner.policy import policy_nodes
from paceline.planner.sizes import GIB, MIB
from paceline.types.errors import InvalidRequest
from paceline.types.instance import NoPlacement, Placement
from paceline.types.links import Link, Links
from paceline.types.model import ModelFacts
from paceline.types.policy import DEFAULT_TIERS, Tier, check_tiers
from paceline.types.states import Objective
from tests.planner.clusters import layers, model, node, wish

SMOL = ModelFacts(
    name="smol", family="llama", digest="d", disk_bytes=270 * 10**6,
    layer_params=(3_540_096,) * 30, embed_params=28_311_552, head_params=28_312_128, tied=True,
    width=576, vocab_size=49152, kv_width=192, max_context=8192, depth_divisor=64,
)  # fmt: skip

DIALOGPT = ModelFacts(
    name="dialogpt-medium", family="gpt2", digest="d", disk_bytes=863 * 10**6,
    layer_params=(12_596_224,) * 24, embed_params=(50257 + 1024) * 1024,
    head_params=50257 * 1024 + 2048, tied=True, width=1024, vocab_size=50257, kv_width=1024,
    max_context=1024, depth_divisor=1024,
)  # fmt: skip
"""DialoGPT-medium's numbers: 24 layers, width 1024, vocabulary 50257, 0.863 GB on disk."""


def nodes_of(placement) -> list[str]:
    assert isinstance(placement, Placement), placement
    return [seat.node for seat in placement.seats]


# --- how many -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gigabytes", "nodes"),
    [(0.001, 1), (0.863, 1), (1.999, 1), (2, 2), (5, 2), (9.999, 2), (10, 4), (140, 4), (4000, 4)],
)
def test_policy_by_checkpoint_size(gigabytes, nodes):
    assert policy_nodes(int(gigabytes * 10**9)) == nodes


@pytest.mark.parametrize(("gigabytes", "most"), [(1.9, 1), (2, 2), (9.9, 2), (10, 4)])
@pytest.mark.parametrize("there", [1, 2, 3, 8])
def test_the_policy_bounds_throughput_and_never_asks_for_more_than_there_are(
    gigabytes, most, there
):
    facts = model((10**7,) * 24, disk_bytes=int(gigabytes * 10**9))
    placed = plan(
        facts,
        [node(f"n{i}", 16 * GIB) for i in range(there)],
        wish(objective=Objective.THROUGHPUT),
    )
    assert placed.world_size == min(most, there)


def test_the_owners_tiers_replace_the_policy():
    tiers = (Tier(below_bytes=10**9, nodes=3), Tier(nodes=5))
    placed = plan(
        SMOL,
        [node(f"n{i}", 4 * GIB) for i in range(8)],
        wish(objective=Objective.MEMORY),
        tiers=tiers,
    )
    assert placed.world_size == 3


@pytest.mark.parametrize(
    ("tiers", "words"),
    [
        ((), "no below_bytes"),
        ((Tier(below_bytes=1.0, nodes=1),), "no below_bytes"),
        ((Tier(below_bytes=2.0, nodes=1), *DEFAULT_TIERS[::-1]), "no below_bytes"),
        ((DEFAULT_TIERS[1], DEFAULT_TIERS[0], DEFAULT_TIERS[2]), "order"),
        ((Tier(nodes=0),), "at least 1"),
    ],
)
def test_tiers_that_make_no_sense_are_refused(tiers, words):
    with pytest.raises(InvalidRequest, match=words):
        check_tiers(tiers)


def test_dialogpt_medium_takes_one_node_by_default():
    placed = plan(DIALOGPT, [node("a", 8 * GIB), node("b", 8 * GIB)], wish())
    assert placed.world_size == 1
    assert placed.reasons == ("1 node, because the model fits and one node answers fastest",)


def test_dialogpt_medium_takes_two_nodes_when_asked():
    placed = plan(DIALOGPT, [node("a", 8 * GIB), node("b", 8 * GIB)], wish(min_nodes=2))
    assert placed.world_size == 2
    assert sorted(nodes_of(placed)) == ["a", "b"]
    assert placed.reasons == ("2 nodes, as asked for by min_nodes",)


def test_dialogpt_medium_takes_two_nodes_when_no_single_one_has_room():
    placed = plan(DIALOGPT, [node("a", 1.5 * GIB), node("b", 1.5 * GIB)], wish())
    assert placed.world_size == 2
    assert sorted(nodes_of(placed)) == ["a", "b"]
    assert placed.reasons == (
        "2 nodes, because the model does not fit on fewer, beyond the policy's 1 node",
    )


def test_memory_never_wins_over_max_nodes():
    refused = plan(DIALOGPT, [node("a", 1.5 * GIB), node("b", 1.5 * GIB)], wish(max_nodes=1))
    assert isinstance(refused, NoPlacement)
    assert refused.reasons == (
        "m does not fit on 1 node (max_nodes)",
        "a: needs 1.8 GiB for layers 0–23, has 1.5 GiB free of 1.5",
        "1 node more: none has more than 1.5 GiB free of 1.5",
    )


@pytest.mark.parametrize("objective", list(Objective))
def test_the_callers_max_nodes_wins_over_the_policy(objective):
    cluster = [node(f"n{i}", 4 * GIB) for i in range(5)]
    placed = plan(SMOL, cluster, wish(max_nodes=3, objective=objective))
    expected = {Objective.LATENCY: 1, Objective.THROUGHPUT: 3, Objective.MEMORY: 3}
    assert placed.world_size == expected[objective]


def test_one_node_wins_for_latency_even_if_two_would_be_quicker():
    slow = node("slow", 16 * GIB, seconds_per_byte=1e-9)
    quick = [node(f"q{i}", 700 * MIB, seconds_per_byte=1e-11) for i in range(2)]
    assert nodes_of(plan(SMOL, [slow, *quick], wish(max_nodes=2))) == ["slow"]


def test_a_model_in_the_second_tier_takes_one_node_where_it_fits():
    facts = model((10**7,) * 24, disk_bytes=5 * 10**9)
    assert plan(facts, [node("a", 16 * GIB), node("b", 16 * GIB)], wish()).world_size == 1


# --- zero, one, and what can never be -------------------------------------------------------------


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
    for nodes in ([], [node("a", 8 * GIB)]):
        with pytest.raises(InvalidRequest, match=words):
            plan(SMOL, nodes, wish(**options))


@pytest.mark.parametrize("free", [-GIB, 0, 1, 100 * MIB])
def test_a_node_without_any_room_is_named(free):
    refused = plan(SMOL, [node("a", free, 4 * GIB)], wish())
    assert refused.reasons[1].startswith("a: needs 823 MiB for layers 0–29, has ")


def test_a_model_of_one_layer():
    placed = plan(model((10**6,)), [node("a", GIB), node("b", 2 * GIB)], wish())
    assert nodes_of(placed) == ["b"]


# --- which ----------------------------------------------------------------------------------------


def test_two_equal_nodes_share_evenly_and_the_one_with_the_logits_gets_less():
    placed = plan(SMOL, [node("a", 4 * GIB), node("b", 4 * GIB)], wish(min_nodes=2))
    assert nodes_of(placed) == ["a", "b"]
    assert layers(placed) == [(0, 16), (16, 30)]


def test_among_equals_the_roomiest_then_the_first_by_name():
    assert nodes_of(plan(SMOL, [node("a", 4 * GIB), node("b", 8 * GIB)], wish())) == ["b"]
    assert nodes_of(plan(SMOL, [node("z", 8 * GIB), node("b", 8 * GIB)], wish())) == ["b"]


def test_uneven_memory_is_filled_evenly():
    cluster = [node(f"n{gib}-{i}", gib * GIB) for i, gib in enumerate((16, 4, 4, 2))]
    placed = plan(SMOL, cluster, wish(min_nodes=4))
    free = {one.name: one.free_bytes for one in cluster}
    counts = {seat.node: seat.shard.stop - seat.shard.start for seat in placed.seats}
    assert set(counts) == set(free)
    assert counts["n16-0"] > counts["n4-1"] >= counts["n2-3"]
    assert all(seat.memory_bytes <= free[seat.node] for seat in placed.seats)


def test_uneven_memory_that_only_the_large_node_makes_enough_of():
    facts = model((4 * 10**7,) * 32, disk_bytes=5 * 10**9)
    cluster = [
        node(name, gib * GIB) for name, gib in zip("abcd", (4.8, 1.2, 1.2, 0.6), strict=True)
    ]
    placed = plan(facts, cluster, wish())
    assert placed.world_size == 2
    assert "a" in nodes_of(placed)
    counts = {seat.node: seat.shard.stop - seat.shard.start for seat in placed.seats}
    assert counts["a"] == max(counts.values()) > 16


def test_throughput_gives_layers_by_speed():
    fast, slow = (
        node("f", 8 * GIB, seconds_per_byte=1e-10),
        node("s", 8 * GIB, seconds_per_byte=4e-10),
    )
    facts = model((10**7,) * 40, vocab=1000)
    placed = plan(facts, [fast, slow], wish(objective=Objective.THROUGHPUT, max_nodes=2))
    counts = {seat.node: seat.shard.stop - seat.shard.start for seat in placed.seats}
    assert counts == {"f": 32, "s": 8}


def test_latency_gives_layers_to_the_quick_as_far_as_they_hold():
    fast = node("f", 1.2 * GIB, seconds_per_byte=1e-10)
    slow = node("s", 8 * GIB, seconds_per_byte=4e-10)
    placed = plan(SMOL, [fast, slow], wish(min_nodes=2, objective=Objective.LATENCY))
    counts = {seat.node: seat.shard.stop - seat.shard.start for seat in placed.seats}
    assert counts["s"] == 1


def test_memory_takes_the_fewest_bytes_on_the_fullest_node():
    cluster = [node(f"n{i}", 8 * GIB) for i in range(4)]
    by_count = {
        count: max(
            seat.memory_bytes
            for seat in plan(SMOL, cluster, wish(min_nodes=count, max_nodes=count)).seats
        )
        for count in (1, 2, 3, 4)
    }
    best = plan(SMOL, cluster, wish(max_nodes=4, objective=Objective.MEMORY))
    assert max(seat.memory_bytes for seat in best.seats) == min(by_count.values()) == by_count[4]


def test_near_nodes_are_chosen_and_ordered_by_their_hops():
    near = [("a", "c", 0.2), ("c", "d", 0.2), ("a", "d", 0.2)]
    measured = tuple(Link(a=x, b=y, round_trip_s=ms / 1000) for x, y, ms in near)
    far = Links(measured=measured, round_trip_s=0.05)
    cluster = [node(name, 4 * GIB) for name in "abcde"]
    placed = plan(SMOL, cluster, wish(min_nodes=3, max_nodes=3), links=far)
    assert sorted(nodes_of(placed)) == ["a", "c", "d"]


def ring(placement) -> set[frozenset[str]]:
    names = nodes_of(placement)
    return {frozenset(pair) for pair in pairwise([*names, names[0]])}


@pytest.mark.parametrize("objective", list(Objective))
@pytest.mark.parametrize("count", [4, 12])
def test_a_bad_edge_is_avoided(objective, count):
    names = [f"n{i:02}" for i in range(count)]
    bad = [(names[0], names[1]), (names[1], names[2])]
    links = Links(measured=tuple(Link(a=a, b=b, bad=True) for a, b in bad))
    asked = wish(min_nodes=count - 1, max_nodes=count, objective=objective)
    placed = plan(SMOL, [node(name, 4 * GIB) for name in names], asked, links=links)
    assert not ring(placed) & {frozenset(edge) for edge in bad}


def test_two_nodes_with_a_bad_edge_wait_and_say_so():
    links = Links(measured=(Link(a="b", b="a", bad=True), Link(a="a", b="b")))
    refused = plan(SMOL, [node("a", 4 * GIB), node("b", 4 * GIB)], wish(min_nodes=2), links=links)
    assert refused.reasons == (
        "m fits, but no line avoids the bad links",
        "a–b: the link is bad",
    )
    third = [node(name, 4 * GIB) for name in "abc"]
    assert "c" in nodes_of(plan(SMOL, third, wish(min_nodes=2), links=links))


def test_measured_nonsense_does_no_harm():
    odd = [float("nan"), float("inf"), -1.0, 0.0, 1e300]
    cluster = [node(f"n{i}", 4 * GIB, seconds_per_byte=s) for i, s in enumerate(odd)]
    links = Links(
        measured=tuple(
            Link(a="n0", b=f"n{i}", round_trip_s=value, bytes_per_s=value)
            for i, value in enumerate(odd)
            if i
        )
    )
    for objective in Objective:
        placed = plan(SMOL, cluster, wish(min_nodes=3, objective=objective), links=links)
        assert placed.world_size == 3


# --- reasons --------------------------------------------------------------------------------------


def test_every_node_that_lacks_room_says_what_it_needs_and_has():
    facts = model((4 * 10**7,) * 24)
    cluster = [node("gremlin-3", 1.2 * GIB, 4 * GIB), node("gremlin-4", 700 * MIB, 900 * MIB)]
    refused = plan(facts, cluster, wish())
    assert refused.reasons == (
        "m does not fit on 2 nodes (all that are ready)",
        "gremlin-3: needs 2.8 GiB for layers 0–15, has 1.2 GiB free of 4.0",
        "gremlin-4: needs 1.5 GiB for layers 16–23, has 700 MiB free of 900",
    )


def test_many_nodes_without_room_are_a_group():
    facts = model((4 * 10**8,) * 24)
    refused = plan(facts, [node(f"n{i:02}", GIB) for i in range(40)], wish())
    assert refused.reasons[0] == "m does not fit on 24 nodes (one for each layer)"
    assert refused.reasons[1] == "n00: needs 1.8 GiB for layer 0, has 1.0 GiB free of 1.0"
    assert refused.reasons[9:] == (
        "16 nodes more of that line: too little room as well",
        "16 nodes more: none has more than 1.0 GiB free of 1.0",
    )


def bad(*edges):
    return Links(measured=tuple(Link(a=a, b=b, bad=True) for a, b in edges))


# --- what was, and what is loaded -----------------------------------------------------------------


def test_a_replan_keeps_the_nodes_that_were():
    first = plan(SMOL, [node("a", 4 * GIB), node("b", 4 * GIB)], wish())
    now = [node("a", 4 * GIB), node("b", 6 * GIB)]
    kept = plan(SMOL, now, wish(), sticky=first)
    assert nodes_of(kept) == ["a"]
    assert kept.reasons == ("kept where it is: no other line is worth the move",)
    assert nodes_of(plan(SMOL, [now[1]], wish(), sticky=first)) == ["b"]


@pytest.mark.parametrize("quicker", [1.15, 1.4])
def test_a_small_gain_moves_nothing_and_a_large_one_does(quicker):
    first = plan(SMOL, [node("a", 4 * GIB, seconds_per_byte=1e-10)], wish())
    now = [
        node("a", 4 * GIB, seconds_per_byte=1e-10),
        node("b", 4 * GIB, seconds_per_byte=1e-10 / quicker),
    ]
    placed = plan(SMOL, now, wish(), sticky=first)
    moves = quicker > 1 + MOVE_GAIN
    assert nodes_of(placed) == (["b"] if moves else ["a"])
    assert moves or placed.reasons == (
        "kept where it is: the best other line would be only 15 % better",
    )


def test_a_line_is_not_drawn_together_when_one_node_gets_room():
    cluster = [node("a", 700 * MIB), node("b", 700 * MIB)]
    first = plan(SMOL, cluster, wish())
    assert first.world_size == 2
    placed = plan(SMOL, [*cluster, node("c", 8 * GIB)], wish(), sticky=first)
    assert nodes_of(placed) == nodes_of(first)
    assert layers(placed) == layers(first)


@pytest.mark.parametrize("broken", ["gone", "full", "bad edge", "other dtype", "too many"])
def test_a_line_that_no_longer_works_is_not_kept(broken):
    cluster = [node(name, 4 * GIB) for name in "abcd"]
    asked = wish(min_nodes=2, max_nodes=3)
    first = plan(SMOL, cluster, asked)
    assert nodes_of(first) == ["a", "b"]
    links = Links()
    if broken == "gone":
        cluster = cluster[1:]
    if broken == "full":
        cluster[0] = node("a", 300 * MIB, 4 * GIB)
    if broken == "bad edge":
        links = Links(measured=(Link(a="a", b="b", bad=True),))
    if broken == "other dtype":
        first = replace(first, dtype="float13")
        cluster[3] = node("d", 5 * GIB)
    if broken == "too many":
        asked = wish(max_nodes=1)
    placed = plan(SMOL, cluster, asked, sticky=first, links=links)
    assert nodes_of(placed) != nodes_of(first)
    assert "kept" not in placed.reasons[0]


def test_the_survivors_of_a_line_keep_their_layers():
    cluster = [node(name, 700 * MIB) for name in "abc"]
    first = plan(SMOL, cluster, wish(min_nodes=3))
    lost = nodes_of(first)[1]
    now = [one for one in cluster if one.name != lost] + [node("z", 700 * MIB)]
    placed = plan(SMOL, now, wish(min_nodes=3), sticky=first)
    kept = {(seat.node, seat.shard) for seat in first.seats if seat.node != lost}
    assert kept <= {(seat.node, seat.shard) for seat in placed.seats}
    assert nodes_of(placed)[1] == "z"


@pytest.mark.parametrize("objective", Objective)
def test_nobody_moves_because_who_fills_a_hole_is_slower(objective):
    """Though another order of the two would be a little better."""
    pace = 1e-10
    cluster = [node("a", 2 * GIB, seconds_per_byte=pace), node("b", 2 * GIB, seconds_per_byte=pace)]
    asked = wish(min_nodes=2, max_nodes=2, objective=objective)
    first = plan(SMOL, cluster, asked)
    stays, _ = nodes_of(first)
    now = [
        node(stays, 2 * GIB, seconds_per_byte=pace),
        node("z", 2 * GIB, seconds_per_byte=1.25 * pace),
    ]
    placed = plan(SMOL, now, asked, sticky=first)
    assert nodes_of(placed) == [stays, "z"]
    assert layers(placed) == layers(first)
    assert "all but rank 1 keep their layers" in placed.reasons[0]


def test_a_much_better_line_is_not_forgone_for_a_survivor():
    cluster = [node("a", 2 * GIB, seconds_per_byte=1e-9), node("b", 2 * GIB, seconds_per_byte=1e-9)]
    asked = wish(min_nodes=2, max_nodes=2)
    first = plan(SMOL, cluster, asked)
    quick = [node(name, 2 * GIB, seconds_per_byte=1e-10) for name in "xy"]
    placed = plan(SMOL, [cluster[0], *quick], asked, sticky=first)
    assert nodes_of(placed) == ["x", "y"]


def test_of_two_nodes_that_cannot_reach_each_other_one_stays():
    cluster = [node(name, 2 * GIB) for name in "abc"]
    asked = wish(min_nodes=2, max_nodes=2)
    first = plan(SMOL, cluster, asked)
    assert nodes_of(first) == ["a", "b"]
    placed = plan(SMOL, cluster, asked, sticky=first, links=bad("ab"))
    assert nodes_of(placed) == ["a", "c"]
    assert layers(placed) == layers(first)


def test_who_reaches_neither_neighbour_leaves_the_line():
    cluster = [node(name, 2 * GIB) for name in "abcd"]
    asked = wish(min_nodes=3, max_nodes=3)
    first = plan(SMOL, cluster, asked)
    driver, outcast, last = nodes_of(first)
    links = bad((driver, outcast), (outcast, last))
    placed = plan(SMOL, cluster, asked, sticky=first, links=links)
    assert nodes_of(placed) == [driver, "d", last]
    assert layers(placed) == layers(first)


def test_who_has_the_least_choice_chooses_first():
    """The roomy one is the quicker, too, and would do for either hole."""
    cluster = [node(name, 4 * GIB) for name in "abc"]
    asked = wish(min_nodes=3, max_nodes=3, seats=())
    first = plan(SMOL, cluster, asked)
    driver, middle, last = first.seats
    small = node("small", max(middle.memory_bytes, last.memory_bytes) - MIB)
    assert middle.memory_bytes != last.memory_bytes
    roomy = node("roomy", 4 * GIB, seconds_per_byte=1e-10)
    now = [cluster["abc".index(driver.node)], small, roomy]
    placed = plan(SMOL, now, asked, sticky=first)
    assert layers(placed) == layers(first)
    assert set(nodes_of(placed)[1:]) == {"small", "roomy"}
    assert "all but ranks 1, 2 keep their layers" in placed.reasons[0]


def test_a_hole_that_nobody_can_fill_makes_another_line():
    cluster = [node(name, 700 * MIB) for name in "abc"]
    first = plan(SMOL, cluster, wish(min_nodes=2, max_nodes=3))
    assert first.world_size == 2
    lost = nodes_of(first)[1]
    now = [one for one in cluster if one.name != lost]
    now = [replace(one, free_bytes=450 * MIB) if one.name == "c" else one for one in now]
    now.append(node("d", 450 * MIB))
    placed = plan(SMOL, now, wish(min_nodes=2, max_nodes=3), sticky=first)
    assert placed.world_size == 3


@pytest.mark.parametrize("objective", [Objective.LATENCY, Objective.THROUGHPUT])
def test_a_node_that_holds_the_layers_is_preferred_to_one_that_is_a_little_quicker(objective):
    memory = MemoryModel(SMOL, "float32")
    holder = node("h", 2 * GIB, seconds_per_byte=1e-10, holds=(memory.shard(0, 30),))
    quick = node("q", 4 * GIB, seconds_per_byte=0.95e-10)
    assert nodes_of(plan(SMOL, [holder, quick], wish(objective=objective))) == ["h"]
    much = replace(quick, seconds_per_byte=0.7e-10)
    assert nodes_of(plan(SMOL, [holder, much], wish(objective=objective))) == ["q"]


def test_a_node_with_the_files_on_disk_is_preferred():
    far = node("far", 8 * GIB, on_disk=False)
    assert nodes_of(plan(SMOL, [far, node("near", 2 * GIB)], wish())) == ["near"]
    assert nodes_of(plan(SMOL, [far], wish())) == ["far"]


def test_weights_are_held_in_int8_unless_asked():
    cluster = [node("a", 8 * GIB)]
    by_default = plan(SMOL, cluster, wish(dtype="auto"))
    assert by_default == plan(SMOL, cluster, wish(dtype="int8"))
    in_floats = plan(SMOL, cluster, wish(dtype="float32"))
    assert by_default.seats[0].memory_bytes < in_floats.seats[0].memory_bytes / 2


def test_int4_fits_where_int8_does_not():
    large = model((10**8,) * 40)
    memory = MemoryModel(large, "int8")
    cluster = [node("a", memory.rank_bytes(memory.shard(0, 40), 1) * 3 // 4)]
    assert nodes_of(plan(large, cluster, wish(dtype="int4", kv_tokens=4096))) == ["a"]
    assert isinstance(plan(large, cluster, wish(dtype="int8", kv_tokens=4096)), NoPlacement)


def test_int4_is_refused_for_depths_that_it_cannot_have():
    with pytest.raises(
        InvalidRequest, match="int4 needs matrices whose depths are multiples of 64"
    ):
        plan(replace(SMOL, depth_divisor=96), [node("a", 8 * GIB)], wish(dtype="int4"))


# --- the forecast ---------------------------------------------------------------------------------


def test_the_forecast_adds_up():
    fast = node("f", 4 * GIB, seconds_per_byte=1e-10)
    slow = node("s", 4 * GIB, seconds_per_byte=3e-10)
    link = Link(a="s", b="f", round_trip_s=0.004, bytes_per_s=10**6)
    placed = plan(SMOL, [fast, slow], wish(min_nodes=2), links=Links(measured=(link,)))
    predicted = placed.forecast
    memory = MemoryModel(SMOL, "float32")
    speeds = {"f": 1e-10, "s": 3e-10}
    for seat, rank in zip(placed.seats, predicted.ranks, strict=True):
        read = 4 * sum(SMOL.layer_params[seat.shard.start : seat.shard.stop])
        read += 4 * SMOL.head_params if seat.shard.is_last else 0
        assert rank.stage_s == pytest.approx(read * speeds[seat.node])
        assert rank.memory_bytes == seat.memory_bytes
        assert rank.weight_bytes == memory.weight_bytes(seat.shard)
        assert rank.free_bytes == 4 * GIB
    first, last = predicted.ranks
    assert first.hop_s == pytest.approx(0.002 + (4 * 576 + 256) / 10**6)
    assert last.hop_s == pytest.approx(0.002)
    total = first.stage_s + first.hop_s + last.stage_s + last.hop_s
    assert predicted.seconds_per_token == pytest.approx(total)
    assert predicted.tokens_per_s == pytest.approx(1 / max(first.stage_s, last.stage_s))


def test_one_node_has_no_hops():
    predicted = plan(SMOL, [node("a", 4 * GIB, seconds_per_byte=1e-10)], wish()).forecast
    assert predicted.ranks[0].hop_s == 0
    assert predicted.seconds_per_token == pytest.approx(1 / predicted.tokens_per_s)


def test_a_preview_says_the_same_as_the_plan():
    cluster = [node("a", 4 * GIB), node("b", 4 * GIB)]
    shown = preview(SMOL, cluster, wish(min_nodes=2))
    assert shown.placement == plan(SMOL, cluster, wish(min_nodes=2))
    assert shown.reasons == shown.placement.reasons
    refused = preview(SMOL, [], wish())
    assert refused.placement is None
    assert refused.reasons


def test_a_name_given_twice_counts_once():
    twice: list[NodeBudget] = [node("a", 700 * MIB), node("a", 700 * MIB)]
    refused = plan(SMOL, twice, wish(min_nodes=2))
    assert refused.reasons == ("asked for at least 2 nodes, 1 node ready",)
