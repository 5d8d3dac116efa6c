"""A placement that a person wrote is taken as it is, or refused with the reason."""

import pytest

from paceline.planner import plan
from paceline.planner.manual import place_manually
from paceline.planner.sizes import GIB, MIB
from paceline.types.errors import InvalidRequest
from paceline.types.instance import ManualSeat
from paceline.types.links import Link, Links
from tests.planner.clusters import layers, node, wish
from tests.planner.test_plan import SMOL

NODES = [node("a", 4 * GIB), node("b", 4 * GIB), node("small", 300 * MIB, GIB)]


def seats(*rows: tuple[int, str, int, int]) -> list[ManualSeat]:
    return [ManualSeat(rank=rank, node=name, start=a, stop=b) for rank, name, a, b in rows]


def test_a_sound_placement_is_taken_as_written():
    placed = place_manually(SMOL, NODES, wish(), seats((0, "b", 0, 3), (1, "a", 3, 30)))
    assert [seat.node for seat in placed.seats] == ["b", "a"]
    assert layers(placed) == [(0, 3), (3, 30)]
    assert placed.forecast.seconds_per_token > 0


def test_it_is_the_same_as_the_planners_own_with_the_same_seats():
    planned = plan(SMOL, NODES[:2], wish(min_nodes=2))
    written = [
        ManualSeat(rank=s.rank, node=s.node, start=s.shard.start, stop=s.shard.stop)
        for s in planned.seats
    ]
    placed = place_manually(SMOL, NODES, wish(), written)
    assert (placed.seats, placed.forecast) == (planned.seats, planned.forecast)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "at least rank 0"),
        ([(1, "a", 0, 30)], "where rank 0 should be is rank 1"),
        ([(1, "a", 0, 9), (0, "b", 9, 30)], "where rank 0 should be is rank 1"),
        ([(0, "a", 0, 9), (2, "b", 9, 30)], "where rank 1 should be is rank 2"),
        ([(0, "nobody", 0, 30)], "no node 'nobody' is ready; ready: a, b, small"),
        ([(0, "a", 0, 9), (1, "a", 9, 30)], "a has rank 0 already"),
        ([(0, "a", 0, 0), (1, "b", 0, 30)], r"\[0, 0\) is no range of the model's 30 layers"),
        ([(0, "a", 0, 31)], r"\[0, 31\) is no range"),
        ([(0, "a", -1, 30)], r"\[-1, 30\) is no range"),
        ([(0, "a", 1, 30)], "nobody has layers 0–0"),
        ([(0, "a", 0, 9), (1, "b", 11, 30)], "nobody has layers 9–10"),
        ([(0, "a", 0, 9), (1, "b", 7, 30)], "layers 7–8 are with an earlier rank"),
        ([(0, "a", 0, 9)], "nobody has layers 9–29"),
        (
            [(0, "small", 0, 9), (1, "b", 9, 30)],
            "rank 0: small: needs .* for layers 0–8, has 300 MiB free of 1.0 GiB",
        ),
    ],
)
def test_what_is_wrong_is_said(rows, words):
    with pytest.raises(InvalidRequest, match=words):
        place_manually(SMOL, NODES, wish(), seats(*rows))


def test_a_bad_edge_is_refused_onward_and_back():
    links = Links(measured=(Link(a="a", b="b", bad=True),))
    with pytest.raises(InvalidRequest, match="is known to be bad"):
        place_manually(SMOL, NODES, wish(), seats((0, "b", 0, 3), (1, "a", 3, 30)), links=links)
    big = [*NODES[:2], node("c", 4 * GIB)]
    rows = seats((0, "a", 0, 3), (1, "c", 3, 9), (2, "b", 9, 30))
    with pytest.raises(InvalidRequest, match=r"rank 2 \(b\) to rank 0 \(a\)"):
        place_manually(SMOL, big, wish(), rows, links=links)
