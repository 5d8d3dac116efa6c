"""A described cluster, read as the planner takes it."""

import re
from pathlib import Path

import pytest

from paceline.planner import parse_cluster
from paceline.planner.sizes import GIB, human_bytes, human_share, parse_bytes, parse_rate
from paceline.types.errors import InvalidRequest
from paceline.types.links import DEFAULT_BYTES_PER_S, DEFAULT_ROUND_TRIP_S

DOCUMENT = Path(__file__).parents[2] / "docs" / "placement.md"

TWO = """
[[node]]
name = "a"
memory = "16GiB"
reserved = "2 GiB"
speed = "20GB/s"

[[node]]
name = "b"
memory = "8GiB"
on_disk = false

[[link]]
between = ["a", "b"]
round_trip_ms = 0.4
bandwidth = "1Gbit/s"
"""


def test_nodes_and_links():
    described = parse_cluster(TWO)
    a, b = described.nodes
    assert (a.name, a.memory_bytes, a.free_bytes) == ("a", 16 * GIB, 14 * GIB)
    assert a.seconds_per_byte == pytest.approx(1 / 20e9)
    assert b.seconds_per_byte is None
    assert (a.on_disk, b.on_disk) == (True, False)
    (link,) = described.links.measured
    assert (link.a, link.b, link.bad) == ("a", "b", False)
    assert link.round_trip_s == pytest.approx(0.0004)
    assert link.bytes_per_s == pytest.approx(125e6)


def test_what_a_file_leaves_out_is_as_if_unmeasured():
    described = parse_cluster(TWO.replace("round_trip_ms = 0.4", "bad = true"))
    (link,) = described.links.measured
    assert link.bad
    assert link.round_trip_s == DEFAULT_ROUND_TRIP_S
    assert described.links.bytes_per_s == DEFAULT_BYTES_PER_S


def test_the_usual_link_is_for_all_that_are_not_described():
    described = parse_cluster(TWO + '[links]\nround_trip_ms = 20\nbandwidth = "10MB/s"\n')
    assert described.links.round_trip_s == pytest.approx(0.02)
    assert described.links.bytes_per_s == 10e6
    assert described.links.measured[0].round_trip_s == pytest.approx(0.0004)


def test_a_cluster_without_nodes_is_one():
    assert parse_cluster("").nodes == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[node]", "no cluster description"),
        ("[[node]]\nname = 'a'", "memory"),
        ("[[node]]\nname = 'a'\nmemory = 7", "memory"),
        ("[[node]]\nname = 'a'\nmemory = 'lots'", "'lots' is no size"),
        ("[[node]]\nname = ''\nmemory = '1GiB'", "name"),
        ("[[node]]\nname = 'a'\nmemory = '1GiB'\ncolour = 'red'", "colour"),
        ("[[node]]\nname = 'a'\nmemory = '1GiB'\nspeed = '0GB/s'", "no speed"),
        ("[[node]]\nname = 'a'\nmemory = '1GiB'\nspeed = '20GB'", "no speed"),
        ("[[node]]\nname = 'a'\nmemory = '1GiB'\nreserved = '2GiB'", "cannot be reserved"),
        ("[[node]]\nname = 'a'\nmemory = '1GiB'\n" * 2, "more than once"),
        (TWO.replace('["a", "b"]', '["a", "c"]'), "no node 'c'"),
        (TWO.replace('["a", "b"]', '["a", "a"]'), "itself"),
        (TWO.replace('["a", "b"]', '["a"]'), "between"),
        (TWO.replace("0.4", "-1"), "round_trip_ms"),
        (TWO.replace("1Gbit/s", "fast"), "'fast' is no speed"),
    ],
)
def test_what_is_wrong_is_said(text, words):
    with pytest.raises(InvalidRequest, match=words):
        parse_cluster(text)


def test_the_documents_example_is_one():
    *_, text = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    described = parse_cluster(text)
    assert [one.name for one in described.nodes] == ["big", "desk-1", "desk-2"]
    assert [link.bad for link in described.links.measured] == [False, True]


@pytest.mark.parametrize(
    ("text", "count"),
    [("2GiB", 2**31), ("700 MiB", 700 * 2**20), ("1.5GB", 1_500_000_000), ("12", 12), ("1k", 1024)],
)
def test_sizes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "1 parsec", "1e3", "20GB/s", "nan", "inf"])
def test_no_sizes(text):
    with pytest.raises(InvalidRequest):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "count"), [("20GB/s", 20e9), ("1 GiB/s", 2**30), ("100Mbit/s", 12.5e6), ("5b/s", 5)]
)
def test_rates(text, count):
    assert parse_rate(text) == count


def test_sizes_for_people():
    assert human_bytes(1.9 * GIB) == "1.9 GiB"
    assert human_bytes(5 * 2**20) == "5 MiB"
    assert human_share(1.2 * GIB, 4 * GIB) == "1.2 GiB free of 4.0"
    assert human_share(GIB / 2, 4 * GIB) == "512 MiB free of 4.0 GiB"
