from hypothesis import given
from hypothesis import strategies as st

from paceline.process.backoff import Backoff


def test_the_first_is_at_once_then_it_doubles_to_ten_seconds() -> None:
    backoff, delays = Backoff(), []
    for _ in range(8):
        backoff, delay = backoff.after(lived_s=1.0)
        delays.append(delay)
    assert delays == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_ten_seconds_of_health_reset_it() -> None:
    backoff, delay = Backoff(20).after(lived_s=10.0)
    assert delay == 0.0
    assert backoff.after(lived_s=9.9)[1] == 0.5


@given(st.lists(st.floats(0, 9.9), max_size=3000))
def test_it_is_bounded_and_never_shrinks_while_unwell(lives: list[float]) -> None:
    backoff, last = Backoff(), 0.0
    for lived_s in lives:
        backoff, delay = backoff.after(lived_s)
        assert last <= delay <= 10.0
        last = delay
