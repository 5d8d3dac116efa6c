"""No task, whatever its kind, order or number, hurts a runner; every task ends exactly once."""

import math

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from paceline.lifecycle import RunnerEvent
from paceline.runner.mailbox import GRACE_S, LONGEST_S, MAX_NAME, MAX_PARKED, Mailbox
from paceline.runner.register import MAX_KIND, MAX_REASON, MAX_REMEMBERED, MAX_REPORTED, UNKNOWN
from paceline.types.ids import Epoch, Seat
from paceline.types.model import Shard
from paceline.types.states import RunnerState, TaskState
from paceline.types.tasks import Connect, Drain, Fetch, Load, Stop, Task, WarmUp

SHARD = Shard(start=0, stop=2, layers=2)
SEAT = Seat("i-1", 0)


def make(kind: type, task_id: str, n: int = 1, term: int = 1) -> Task:
    fields: dict = {"task_id": task_id, "epoch": Epoch(term, n), "deadline_s": 5.0}
    extra = {
        Fetch: {"model": "m"},
        Load: {"seat": SEAT, "model": "m", "shard": SHARD, "dtype": "float32", "kv_pages": 8,
               "memory_bytes": 1},
        Connect: {"seat": SEAT, "world_size": 1, "nodes": ("a",)},
    }  # fmt: skip
    return kind(**fields, **extra.get(kind, {}))


class Desk:
    """A mailbox and a clock; `started` is what the runner was told to begin."""

    def __init__(self) -> None:
        self.now = 0.0
        self.started: list[Task] = []
        self.box = Mailbox(self.started.append, lambda: None, now=0.0)

    def deliver(self, kind: type, task_id: str, **epoch: int) -> None:
        self.box.deliver(make(kind, task_id, **epoch), self.now)

    def status(self, task_id: str):
        return next(s for s in self.box.statuses if s.task_id == task_id)

    def walk_to_ready(self) -> None:
        steps = ((Load, "LOAD_DONE"), (Connect, "CONNECT_DONE"), (WarmUp, "WARM_UP_DONE"))
        for kind, event in steps:
            self.deliver(kind, event)
            self.box.complete(event, RunnerEvent[event], self.now)


def test_the_way_to_ready():
    desk = Desk()
    desk.walk_to_ready()
    assert desk.box.state is RunnerState.READY
    assert [type(task) for task in desk.started] == [Load, Connect, WarmUp]
    assert all(status.state is TaskState.COMPLETE for status in desk.box.statuses)


def test_a_task_that_comes_too_early_is_kept_and_begins_when_its_time_comes():
    desk = Desk()
    desk.deliver(Load, "load")
    desk.deliver(Connect, "connect")
    assert desk.status("connect").state is TaskState.PARKED
    desk.box.complete("load", RunnerEvent.LOAD_DONE, desk.now)
    assert desk.status("connect").state is TaskState.RUNNING
    assert desk.box.state is RunnerState.CONNECTING


def test_the_grace_ends_with_the_state_found_and_the_states_that_accept():
    desk = Desk()
    desk.deliver(Load, "load")
    desk.deliver(Connect, "connect")
    desk.now = GRACE_S
    desk.box.tick(desk.now)
    status = desk.status("connect")
    assert status.state is TaskState.FAILED
    assert "found the runner loading" in status.reason
    assert "loaded" in status.reason
    assert desk.box.state is RunnerState.LOADING


def test_an_impossible_task_fails_at_once_and_the_next_is_taken():
    desk = Desk()
    desk.deliver(Drain, "drain")
    assert desk.status("drain").state is TaskState.FAILED
    assert "drain found the runner idle" in desk.status("drain").reason
    desk.deliver(Load, "load")
    assert desk.box.state is RunnerState.LOADING


def test_an_older_epoch_changes_nothing():
    desk = Desk()
    desk.deliver(Load, "load", n=5)
    desk.box.complete("load", RunnerEvent.LOAD_DONE, desk.now)
    desk.deliver(Connect, "old", n=4)
    assert "epoch 1.5 is in force" in desk.status("old").reason
    desk.deliver(Stop, "older", n=9, term=0)
    assert desk.box.state is RunnerState.LOADED


def test_a_repeated_task_is_the_same_task():
    desk = Desk()
    desk.deliver(Load, "load")
    desk.deliver(Load, "load")
    desk.box.complete("load", RunnerEvent.LOAD_DONE, desk.now)
    desk.deliver(Load, "load")
    assert len(desk.started) == 1
    assert desk.box.state is RunnerState.LOADED


def test_a_newer_connect_takes_the_place_of_an_older_one():
    desk = Desk()
    desk.deliver(Load, "load")
    desk.box.complete("load", RunnerEvent.LOAD_DONE, desk.now)
    desk.deliver(Connect, "first", n=2)
    desk.deliver(Connect, "second", n=3)
    assert desk.status("first").state is TaskState.CANCELLED
    desk.box.complete("first", RunnerEvent.CONNECT_DONE, desk.now)
    assert desk.box.state is RunnerState.CONNECTING
    desk.box.complete("second", RunnerEvent.CONNECT_DONE, desk.now)
    assert desk.box.state is RunnerState.WARMING


def test_a_lost_line_fails_the_task_in_hand_and_keeps_the_weights():
    desk = Desk()
    desk.deliver(Load, "load")
    desk.box.complete("load", RunnerEvent.LOAD_DONE, desk.now)
    desk.deliver(Connect, "connect")
    desk.box.happen(RunnerEvent.LINE_LOST, "rank 1 has been silent for 3.1 s", desk.now)
    assert desk.box.state is RunnerState.LOADED
    assert desk.status("connect").reason == "rank 1 has been silent for 3.1 s"


def test_a_connect_that_nobody_answers_times_out():
    desk = Desk()
    desk.deliver(Load, "load")
    desk.box.complete("load", RunnerEvent.LOAD_DONE, desk.now)
    desk.deliver(Connect, "connect")
    assert desk.box.tick(4.9) is None
    assert desk.box.tick(5.0) is desk.started[-1]
    assert desk.status("connect").state is TaskState.TIMED_OUT
    assert desk.box.state is RunnerState.LOADED


def test_a_failed_load_leaves_the_runner_where_load_is_accepted():
    desk = Desk()
    desk.deliver(Load, "load")
    desk.box.fail("load", "model.safetensors: truncated", desk.now)
    assert desk.box.state is RunnerState.FAILED
    assert desk.box.reason == "model.safetensors: truncated"
    desk.deliver(Load, "again")
    assert desk.box.state is RunnerState.LOADING


def test_a_task_that_cannot_be_read_ends_failed_and_is_known_from_then_on():
    desk = Desk()
    for _ in range(2):
        desk.box.unreadable({"task": {"task_id": "x", "type": "dance"}}, "Invalid value 'dance'")
    assert desk.status("x").state is TaskState.FAILED
    assert "Invalid value 'dance'" in desk.status("x").reason
    assert desk.box.state is RunnerState.IDLE
    assert desk.box.counts == {"unknown/failed": 1}


@pytest.mark.parametrize(
    "fields", [None, {}, {"task": None}, {"task": {}}, {"task": {"task_id": 7}}, {"task": ["x"]}]
)
def test_an_order_that_names_no_task_changes_nothing_and_is_logged(fields):
    desk = Desk()
    with structlog.testing.capture_logs() as logs:
        desk.box.unreadable(fields, "nonsense")
    assert desk.box.statuses == ()
    assert [(line["log_level"], line["reason"]) for line in logs] == [("warning", "nonsense")]


def test_a_late_repetition_is_answered_with_the_end_of_the_task_it_repeats():
    desk = Desk()
    desk.deliver(Load, "load")
    desk.box.complete("load", RunnerEvent.LOAD_DONE, desk.now)
    for number in range(MAX_REPORTED * 3):
        desk.deliver(Drain, f"drain-{number}")
    assert "load" not in {status.task_id for status in desk.box.statuses}
    desk.deliver(Load, "load")
    assert desk.status("load").state is TaskState.COMPLETE
    assert len(desk.started) == 1
    assert desk.box.state is RunnerState.LOADED
    assert len(desk.box.statuses) == MAX_REPORTED


def test_a_repetition_is_reported_for_as_long_as_a_new_task():
    desk = Desk()
    desk.deliver(Drain, "asked-again")
    for number in range(MAX_REPORTED - 1):
        desk.deliver(Drain, f"drain-{number}")
    desk.deliver(Drain, "asked-again")
    for number in range(MAX_REPORTED - 1):
        desk.deliver(Drain, f"other-{number}")
    assert desk.status("asked-again").state is TaskState.FAILED


def test_the_memory_of_ended_tasks_is_bounded():
    desk = Desk()
    for number in range(MAX_REMEMBERED + MAX_REPORTED + 1):
        desk.deliver(Drain, f"drain-{number}")
    assert desk.box.counts == {"drain/failed": MAX_REMEMBERED + MAX_REPORTED + 1}
    desk.deliver(Drain, "drain-0")  # forgotten: a new task, for all the mailbox can know
    assert desk.box.counts == {"drain/failed": MAX_REMEMBERED + MAX_REPORTED + 2}
    desk.deliver(Drain, f"drain-{MAX_REPORTED * 2}")
    assert desk.box.counts == {"drain/failed": MAX_REMEMBERED + MAX_REPORTED + 2}


def test_a_repeated_task_that_is_parked_is_parked_once():
    desk = Desk()
    desk.deliver(Load, "load")
    for _ in range(MAX_PARKED * 2):
        desk.deliver(Connect, "connect")
    desk.box.complete("load", RunnerEvent.LOAD_DONE, desk.now)
    assert [type(task) for task in desk.started] == [Load, Connect]


def test_no_more_than_a_bounded_number_waits():
    desk = Desk()
    desk.deliver(Load, "load")
    for number in range(MAX_PARKED + 1):
        desk.deliver(Connect, f"connect-{number}")
    assert desk.status("connect-0").state is TaskState.PARKED
    assert desk.status(f"connect-{MAX_PARKED}").state is TaskState.FAILED
    assert f"{MAX_PARKED} tasks wait already" in desk.status(f"connect-{MAX_PARKED}").reason


def test_a_stop_ends_what_waits_and_what_is_in_hand():
    desk = Desk()
    desk.deliver(Load, "load")
    desk.deliver(Connect, "connect")
    desk.deliver(Stop, "stop")
    desk.box.complete("stop", None, desk.now)
    ends = {status.task_id: status.state for status in desk.box.statuses}
    assert ends == {
        "load": TaskState.CANCELLED,
        "connect": TaskState.FAILED,
        "stop": TaskState.COMPLETE,
    }


def test_every_end_is_one_line_and_all_but_complete_ones_are_warnings():
    desk = Desk()
    with structlog.testing.capture_logs() as logs:
        desk.deliver(Load, "load", n=3)
        desk.deliver(Connect, "stale", n=2)
        desk.deliver(Drain, "drain", n=3)
        desk.box.unreadable({"task": {"task_id": "odd", "type": 5}}, "Expected `str`")
        desk.box.complete("load", RunnerEvent.LOAD_DONE, desk.now)
    ends = [line for line in logs if line["event"] == "task_ended"]
    assert [(line["log_level"], line["task"], line["kind"], line["state"]) for line in ends] == [
        ("warning", "stale", "connect", "failed"),
        ("warning", "drain", "drain", "failed"),
        ("warning", "odd", UNKNOWN, "failed"),
        ("info", "load", "load", "complete"),
    ]
    assert all(line["epoch"] == "1.3" for line in ends)
    assert all(line["reason"] for line in ends[:3])
    assert desk.box.counts == {
        "connect/failed": 1,
        "drain/failed": 1,
        "unknown/failed": 1,
        "load/complete": 1,
    }


def test_no_word_of_a_task_makes_a_beat_too_long_to_arrive():
    desk = Desk()
    long = "x" * 2**20
    desk.box.unreadable({"task": {"task_id": "a", "type": long}}, long)
    desk.box.unreadable({"task": {"task_id": long, "type": "load"}}, "nonsense")
    desk.deliver(Load, long)
    seated = msgspec.structs.replace(make(Load, "b"), seat=Seat(long, 0))
    desk.box.deliver(seated, desk.now)
    desk.deliver(Load, "c")
    desk.box.fail("c", long, desk.now)
    assert [status.task_id for status in desk.box.statuses] == ["a", "b", "c"]
    assert f"longer than {MAX_NAME}" in desk.status("b").reason
    assert len(desk.box.reason) == MAX_REASON
    words = [(s.kind, s.reason) for s in desk.box.statuses]
    assert all(len(kind) <= MAX_KIND and len(reason) <= MAX_REASON for kind, reason in words)


@pytest.mark.parametrize("deadline_s", [math.nan, math.inf, 1e300, LONGEST_S])
def test_a_deadline_that_is_none_is_the_longest(deadline_s):
    desk = Desk()
    desk.deliver(Load, "load")
    desk.box.complete("load", RunnerEvent.LOAD_DONE, desk.now)
    task = msgspec.structs.replace(make(Connect, "connect"), deadline_s=deadline_s)
    desk.box.deliver(task, desk.now)
    assert desk.box.next_deadline == LONGEST_S
    assert desk.box.tick(LONGEST_S) is task


KINDS = st.sampled_from([Fetch, Load, Connect, WarmUp, Drain, Stop])
ACTIONS = st.one_of(
    st.tuples(st.just("deliver"), KINDS, st.integers(0, 60), st.integers(0, 4)),
    st.tuples(st.just("done"), st.sampled_from(sorted(RunnerEvent))),
    st.tuples(st.just("fail")),
    st.tuples(st.just("event"), st.sampled_from(sorted(RunnerEvent))),
    st.tuples(st.just("wait"), st.floats(0, 1)),
)


@given(st.lists(ACTIONS, max_size=80))
def test_any_sequence_is_survived_and_every_task_ends(actions):
    desk = Desk()
    for action in actions:
        match action:
            case ("deliver", kind, number, n):
                desk.deliver(kind, f"t{number}", n=n)
            case ("done", event) if desk.box.in_hand:
                desk.box.complete(desk.box.in_hand.task_id, RunnerEvent(event), desk.now)
            case ("fail",) if desk.box.in_hand:
                desk.box.fail(desk.box.in_hand.task_id, "broke", desk.now)
            case ("event", event):
                desk.box.happen(RunnerEvent(event), "it happened", desk.now)
            case ("wait", seconds):
                desk.now += seconds
                desk.box.tick(desk.now)
        assert len(desk.box.statuses) <= MAX_REPORTED
    desk.now += 10
    desk.box.tick(desk.now)
    if desk.box.in_hand is not None:
        desk.box.fail(desk.box.in_hand.task_id, "the end", desk.now)
    assert all(status.state.is_terminal for status in desk.box.statuses)
