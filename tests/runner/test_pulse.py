"""Patience that follows from what was measured."""

from paceline.runner.pulse import (
    FACTOR,
    LONGEST_S,
    SHORTEST_S,
    STALL_S,
    UNMEASURED_S,
    Pulse,
)


class Watch:
    """A pulse, its clock, and an I/O thread that looks every half second."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pulse = Pulse(lambda: self.now)

    def layers(self, *took_s: float, work: str = "step", rows: int = 1) -> None:
        self.pulse.begin(work, rows)
        for seconds in took_s:
            self.wait(seconds)
            self.pulse.tick()

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now + 0.5 < end:
            self.now += 0.5
            self.pulse.look()
        self.now = end

    def look(self):
        found = self.pulse.look()
        assert found is not None
        return found


def test_nothing_to_do_is_not_stuck():
    watch = Watch()
    assert watch.pulse.look() is None
    watch.layers(0.1, 0.1)
    watch.pulse.end()
    watch.wait(1000)
    assert watch.pulse.look() is None


def test_what_was_never_measured_has_a_minute():
    watch = Watch()
    watch.pulse.begin("load")
    watch.wait(UNMEASURED_S - 1)
    assert not watch.look().is_stuck
    watch.wait(2)
    assert watch.look().is_stuck


def test_quick_layers_have_the_shortest_patience():
    watch = Watch()
    watch.layers(0.01, 0.01)
    assert watch.look().patience_s == SHORTEST_S
    watch.wait(SHORTEST_S + 0.1)
    assert watch.look().is_stuck


def test_slow_layers_are_given_a_multiple_of_the_slowest():
    watch = Watch()
    watch.layers(1.0, 2.0, 0.1)
    assert abs(watch.look().patience_s - FACTOR * 2.0) < 0.5
    watch.wait(30)
    assert not watch.look().is_stuck


def test_more_rows_take_longer_and_no_patience_is_endless():
    watch = Watch()
    watch.layers(0.05)
    watch.pulse.end()
    watch.pulse.begin("step", rows=64)
    assert abs(watch.look().patience_s - FACTOR * 0.05 * 64) < 1.0
    watch.pulse.begin("step", rows=10_000)
    assert watch.look().patience_s == LONGEST_S


def test_each_kind_of_work_has_its_own_pace():
    watch = Watch()
    watch.layers(0.01)
    watch.pulse.end()
    watch.pulse.begin("load")
    assert watch.look().patience_s == UNMEASURED_S


def test_one_slow_moment_is_forgotten_in_time():
    watch = Watch()
    watch.layers(5.0)
    for _ in range(5000):
        watch.layers(0.001)
    assert watch.look().patience_s == SHORTEST_S


def test_who_stood_still_itself_accuses_nobody():
    watch = Watch()
    watch.layers(0.01)
    watch.pulse.look()
    watch.now += SHORTEST_S + STALL_S  # no look in all that time: the whole process slept
    assert not watch.look().is_stuck
    watch.wait(SHORTEST_S + 0.6)
    assert watch.look().is_stuck


def test_what_follows_the_last_layer_is_measured_too():
    watch = Watch()
    watch.layers(0.01)
    watch.wait(1.0)
    watch.pulse.end()
    watch.pulse.begin("step")
    assert watch.look().patience_s > FACTOR * 0.9


def test_work_that_does_not_even_begin_is_stuck_too():
    watch = Watch()
    queued = watch.now
    for _ in range(10):
        watch.now += 0.5
        found = watch.pulse.look(queued)
    assert found is not None
    assert not found.is_stuck
    watch.now += 0.6
    found = watch.pulse.look(queued)
    assert found is not None
    assert (found.work, found.is_stuck) == ("queue", True)
