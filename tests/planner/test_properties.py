"""What holds for every placement: layers once and in order, within budgets, the same whatever the
order of the inputs, and never lost by a node that joins."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.planner import plan
from paceline.planner.memory import PROCESS_BYTES
from paceline.planner.plan import MOVE_GAIN
from paceline.planner.sizes import GIB
from paceline.types.instance import NoPlacement, Placement
from paceline.types.links import Link, Links
from paceline.types.states import Objective
from tests.planner.clusters import layers, model, node, wish

EXACT, MANY = 5, 14
"""Nodes of a cluster that is searched exactly, and of one that is not."""

budgets = st.integers(PROCESS_BYTES // 2, 2 * GIB)
speeds = st.sampled_from([None, 1e-10, 2e-10, 1e-9])


@st.composite
def models(draw, alike: bool = False):
    count = draw(st.integers(1, 16))
    size = st.integers(10**5, 5 * 10**7)
    params = [draw(size)] * count if alike else draw(st.lists(size, min_size=count, max_size=count))
    facts = model(
        tuple(params),
        vocab=draw(st.sampled_from([1000, 30_000])),
        tied=draw(st.booleans()),
        disk_bytes=draw(st.sampled_from([10**9, 5 * 10**9, 5 * 10**10])),
    )
    least = draw(st.integers(1, min(4, count)))
    most = draw(st.none() | st.integers(least, 6))
    objective = draw(st.sampled_from(list(Objective)))
    return facts, wish(min_nodes=least, max_nodes=most, objective=objective)


@st.composite
def clusters(draw, most: int, edges: bool = True):
    frees = draw(st.lists(budgets, min_size=1, max_size=most))
    nodes = [
        node(f"n{i:02}", free, seconds_per_byte=draw(speeds), on_disk=draw(st.booleans()))
        for i, free in enumerate(frees)
    ]
    pairs = list(combinations((one.name for one in nodes), 2))
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=6)) if edges and pairs else []
    trips = st.floats(0, 0.1)
    measured = [
        Link(a=a, b=b, round_trip_s=draw(trips), bad=draw(st.booleans())) for a, b in chosen
    ]
    return nodes, Links(measured=tuple(measured))


@st.composite
def planned(draw):
    facts, asked = draw(models())
    nodes, links = draw(clusters(MANY))
    return facts, asked, nodes, links, plan(facts, nodes, asked, links=links)


@pytest.mark.parametrize("most", [EXACT, MANY])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_layer_once_in_order_within_budget_and_the_same_in_any_order(most, data):
    facts, asked = data.draw(models())
    nodes, links = data.draw(clusters(most))
    placed = plan(facts, nodes, asked, links=links)
    shuffled = data.draw(st.permutations(nodes))
    turned = Links(measured=tuple(reversed(links.measured)))
    assert placed == plan(facts, shuffled, asked, links=turned)
    if isinstance(placed, NoPlacement):
        assert placed.reasons
        return
    assert_sound(placed, facts, nodes, links)
    assert asked.min_nodes <= placed.world_size <= (asked.max_nodes or len(nodes))


def assert_sound(placed: Placement, facts, nodes, links: Links) -> None:
    cuts = layers(placed)
    assert cuts[0][0] == 0
    assert cuts[-1][1] == len(facts.layer_params)
    assert all(a[1] == b[0] for a, b in pairwise(cuts))
    assert all(start < stop for start, stop in cuts)
    names = [seat.node for seat in placed.seats]
    assert len(set(names)) == placed.world_size
    assert [seat.rank for seat in placed.seats] == list(range(placed.world_size))
    free = {one.name: one.free_bytes for one in nodes}
    assert all(seat.memory_bytes <= free[seat.node] for seat in placed.seats)
    bad = {frozenset((link.a, link.b)) for link in links.measured if link.bad}
    assert not bad & {frozenset(edge) for edge in pairwise([*names, names[0]])}


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_node_that_joins_never_makes_a_model_homeless(data):
    facts, asked = data.draw(models())
    nodes, links = data.draw(clusters(EXACT))
    joining = node("joining", data.draw(budgets), seconds_per_byte=data.draw(speeds))
    bad = data.draw(st.lists(st.sampled_from(nodes), max_size=3))
    more = [Link(a="joining", b=one.name, bad=True) for one in bad]
    after = Links(measured=(*links.measured, *more))
    if isinstance(plan(facts, nodes, asked, links=links), Placement):
        assert isinstance(plan(facts, [*nodes, joining], asked, links=after), Placement)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_node_that_joins_many_never_makes_a_model_of_like_layers_homeless(data):
    facts, asked = data.draw(models(alike=True))
    nodes, _ = data.draw(clusters(MANY, edges=False))
    joining = node("joining", data.draw(budgets), seconds_per_byte=data.draw(speeds))
    if isinstance(plan(facts, nodes, asked), Placement):
        assert isinstance(plan(facts, [*nodes, joining], asked), Placement)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_placement_that_is_planned_again_stays(data):
    facts, asked, nodes, links, placed = data.draw(planned())
    if isinstance(placed, Placement):
        again = plan(facts, nodes, asked, links=links, sticky=placed)
        assert again.seats == placed.seats


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_who_loses_a_neighbour_stays_where_somebody_can_take_its_place(data):
    """Unless another line is much better: for memory none is, for every node takes as much."""
    facts, asked, nodes, links, placed = data.draw(planned())
    if not isinstance(placed, Placement) or placed.world_size == 1:
        return
    (lost, gap) = data.draw(st.sampled_from([(seat.node, seat) for seat in placed.seats]))
    # One node more, that could take over what was lost and reaches everybody.
    heir = node("heir", gap.memory_bytes, seconds_per_byte=1e-10)
    left = [*(one for one in nodes if one.name != lost), heir]
    again = plan(facts, left, asked, links=links, sticky=placed)
    assert isinstance(again, Placement)
    stay = [seat for seat in placed.seats if seat.node != lost]
    if again.reasons[0].startswith("all but rank"):
        assert [seat for seat in again.seats if seat.rank != gap.rank] == stay
    else:
        fullest = max(seat.memory_bytes for seat in placed.seats)
        assert asked.objective is not Objective.MEMORY or fullest > (1 + MOVE_GAIN) * max(
            seat.memory_bytes for seat in again.seats
        )
