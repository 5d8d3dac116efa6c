"""How far a task is: it only goes forward, whatever its stages are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paceline.runner.gauge import Gauge, words

READS = st.lists(
    st.tuples(st.sampled_from(["peers", "hub", "verify"]), st.integers(0, 100), st.floats(0, 10)),
    max_size=40,
)


@given(READS)
def test_the_share_grows_and_never_reaches_the_end_by_itself(reads):
    gauge, before, now = Gauge(), 0.0, 0.0
    for stage, done, passed in reads:
        now += passed
        gauge.read(stage, done, 100, now)
        assert before <= gauge.share < 1
        assert (gauge.rate(now) or 0.0) >= 0
        before = gauge.share


@given(st.lists(st.sampled_from(["hub", "verify", "hash"]), min_size=1, max_size=12))
def test_whatever_moves_is_seen_to_move(stages):
    gauge, now = Gauge(), 0.0
    for stage in stages:
        for done in (0, 1, 2, 3):
            before = gauge.share
            now += 1.0
            gauge.read(stage, done, 3, now)
            assert done == 0 or gauge.share > before


def test_the_rate_is_of_late():
    gauge = Gauge()
    for second in range(10):
        gauge.read("peers", 1000 * second, 10**6, float(second))
    assert gauge.rate(9.0) == 1000
    for second in range(10, 20):
        gauge.read("peers", 9000 + 10 * second, 10**6, float(second))
    assert 9 < (gauge.rate(19.0) or 0) < 11


def test_words_for_people():
    assert (
        words(41_000_000, 100_000_000, 11.2e6, "from n1") == "41 % of 100 MB at 11.2 MB/s, from n1"
    )
    assert words(0, 0, None, "asking 2 nodes") == "0 MB, asking 2 nodes"
