"""Facts in, actions and their sentences out."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from paceline.controller.actions import OrderAgain, RunnerGone, TellAgain
from paceline.controller.blanks import FIRST_ANSWERS_S
from paceline.controller.book import Patience
from paceline.controller.decide import decide
from paceline.controller.facts import ModelSeen
from paceline.controller.nodes import node_state
from paceline.planner import human_bytes
from paceline.planner.memory import PROCESS_BYTES
from paceline.process.backoff import Backoff
from paceline.types.control import Assign, Kill, Launch, Line, Reserve
from paceline.types.facts import DriverLink, ProcessExit, WorkFacts
from paceline.types.ids import Epoch, Seat
from paceline.types.states import InstanceState, RunnerState, TaskState
from paceline.types.tasks import Connect, Fetch, Load, Stop, TaskStatus, WarmUp
from paceline.types.timing import DEFAULT_TIMING
from tests.controller.scenes import GIB, MEMORY, NOW, PLACED, SMOL, Scene

NEED = {node: human_bytes(count) for node, count in MEMORY.items()}

ONE, TWO = Epoch(1, 1), Epoch(1, 2)


def connect(rank: int, epoch: Epoch = ONE) -> Connect:
    return Connect(
        task_id=f"connect-{rank}",
        epoch=epoch,
        deadline_s=15,
        seat=Seat("i-1", rank),
        world_size=2,
        nodes=("n1", "n2"),
    )


def status(task_id: str, state: TaskState, **fields: object) -> TaskStatus:
    return TaskStatus(task_id=task_id, kind=task_id.split("-")[0], state=state, **fields)


# --- from a wish to a line -----------------------------------------------------------------------


def test_a_wish_is_placed_and_its_runners_are_launched_once() -> None:
    scene = Scene()
    scene.wanted()
    said = scene.go()
    assert said == [
        "i-1 (smol) is placed: rank 0 on n1 (layers 0–15), rank 1 on n2 (layers 16–29); "
        "2 nodes, as asked for by min_nodes",
        f"r-1-1 is launched on n1 for i-1/0, {NEED['n1']} reserved",
        f"r-1-2 is launched on n2 for i-1/1, {NEED['n2']} reserved",
    ]
    assert [(to, type(order)) for to, order in scene.sent] == [("n1", Launch), ("n2", Launch)]
    assert scene.inst.state is InstanceState.STARTING
    assert scene.go() == []


def test_an_empty_runner_is_asked_to_fetch_and_then_to_load_its_layers() -> None:
    scene = Scene()
    scene.placed(0, 1)
    scene.runner(0, RunnerState.IDLE, loaded=False)
    assert scene.go() == ["rank 0 (r-0 on n1) of i-1 is asked to have smol on disk"]
    (peer, assign) = scene.sent[-1]
    assert peer == "runner:r-0"
    assert isinstance(assign.task, Fetch)
    done = status(assign.task.task_id, TaskState.COMPLETE)
    scene.runner(0, RunnerState.IDLE, loaded=False, tasks=(done,))
    assert scene.go()[1:] == ["rank 0 (r-0 on n1) of i-1 is asked to load layers 0–15"]
    load = scene.sent[-1][1].task
    assert isinstance(load, Load)
    assert load.shard == PLACED.seats[0].shard
    assert scene.go() == []


def test_when_all_hold_their_layers_a_new_epoch_connects_them() -> None:
    scene = Scene()
    scene.placed(0, 1)
    for rank in (0, 1):
        scene.runner(rank, RunnerState.LOADED)
    assert scene.go() == [
        "i-1 gets epoch 1.1: all 2 ranks hold their layers",
        "rank 0 (r-0 on n1) of i-1 is asked to connect in epoch 1.1",
        "rank 1 (r-1 on n2) of i-1 is asked to connect in epoch 1.1",
    ]
    tasks = [message.task for _, message in scene.sent]
    assert [task.seat.rank for task in tasks] == [0, 1]
    assert {task.nodes for task in tasks} == {("n1", "n2")}


def test_offers_go_round_when_all_are_there_and_the_driver_gets_the_gateways_keys() -> None:
    scene = Scene()
    scene.placed(0, 1, epoch=ONE)
    scene.gateway()
    for rank in (0, 1):
        scene.given(rank, connect(rank), state=TaskState.RUNNING)
        running = status(f"connect-{rank}", TaskState.RUNNING)
        scene.runner(rank, RunnerState.CONNECTING, epoch=ONE, tasks=(running,))
    scene.go()
    lines = {to: message for to, message in scene.sent if isinstance(message, Line)}
    assert [offer.rank for offer in lines["runner:r-0"].offers] == [0, 1]
    assert lines["runner:r-0"].gateway_keys == ("key-g",)
    assert lines["runner:r-1"].gateway_keys == ()
    scene.sent.clear()
    assert scene.go() == []
    assert not scene.sent
    scene.gateway("h")
    scene.go()
    assert [to for to, _ in scene.sent] == ["runner:r-0"], "only the driver's line changed"


def test_connected_ranks_warm_up_together_and_then_the_instance_is_ready() -> None:
    scene = Scene()
    scene.placed(0, 1, epoch=ONE)
    for rank in (0, 1):
        scene.given(rank, connect(rank), state=TaskState.COMPLETE)
        scene.runner(rank, RunnerState.WARMING, epoch=ONE)
    assert scene.go() == [
        "rank 0 (r-0 on n1) of i-1 is asked to warm up",
        "rank 1 (r-1 on n2) of i-1 is asked to warm up",
    ]
    scene.runner(0, RunnerState.READY, epoch=ONE)
    assert scene.go() == []
    scene.runner(1, RunnerState.READY, epoch=ONE)
    assert scene.go() == ["i-1 (smol) is ready: all of epoch 1.1 are"]
    assert scene.inst.reasons == ("ready: all 2 ranks are, in epoch 1.1",)


# --- what may go wrong ---------------------------------------------------------------------------


def test_an_exit_breaks_the_line_and_only_the_missing_runner_is_launched() -> None:
    scene = Scene()
    scene.ready(ONE)
    killed = ProcessExit(runner_id="r-1", pid=7, code=-9, sentence="killed by SIGKILL")
    scene.node("n2", exits=(killed,))
    assert scene.go() == [
        "r-1 on n2 killed by SIGKILL",
        f"r-1-1 is launched on n2 for i-1/1, {NEED['n2']} reserved",
    ]
    assert scene.inst.state is InstanceState.RECOVERING
    assert any("killed by SIGKILL" in reason for reason in scene.inst.reasons)
    assert scene.inst.seats[0].runner == "r-0"


def test_the_event_of_an_exit_carries_its_code_and_last_words() -> None:
    scene = Scene()
    scene.ready(ONE)
    killed = ProcessExit(
        runner_id="r-1", pid=7, code=-9, sentence="killed by SIGKILL", log_tail=("loading", "oh")
    )
    scene.node("n2", exits=(killed,))
    (gone,) = [action for action in scene.decide() if isinstance(action, RunnerGone)]
    assert (gone.code, gone.last_words) == (-9, ("loading", "oh"))


def test_a_runner_that_ends_again_and_again_is_launched_with_growing_pauses() -> None:
    scene = Scene()
    scene.placed(0, 1)
    scene.runner(0, RunnerState.LOADED)
    seat = scene.inst.seats[1]
    troubled = replace(seat, patience=Patience(Backoff(2), NOW - 1.0))
    inst = replace(scene.inst, seats=(scene.inst.seats[0], troubled))
    scene.book.instances["i-1"] = inst
    scene.node("n2")
    assert scene.go() == ["r-1 is no longer among the processes of n2"]
    assert "tried again in 1 s" in " ".join(scene.inst.reasons)
    scene.now += 1.1
    for name in ("n1", "n2"):
        scene.nodes[name] = replace(scene.nodes[name], heard_at=scene.now)
    assert scene.go() == [f"r-1-1 is launched on n2 for i-1/1, {NEED['n2']} reserved"]


def test_a_lost_line_gets_a_newer_epoch_and_keeps_its_runners() -> None:
    scene = Scene()
    scene.ready(ONE)
    scene.book.epochs = 1
    for rank in (0, 1):
        scene.runner(rank, RunnerState.LOADED, reason="rank 1 has been silent for 3.0 s")
    said = scene.go()
    assert said[0] == (
        "i-1: the line of epoch 1.1 is broken: rank 0 (r-0 on n1) left the line: "
        "rank 1 has been silent for 3.0 s"
    )
    assert said[1] == "i-1 gets epoch 1.2: all 2 ranks hold their layers"
    assert not any(isinstance(message, Launch | Kill) for _, message in scene.sent)


def test_the_third_failure_of_a_line_in_a_row_costs_its_runners_their_processes() -> None:
    scene = Scene()
    scene.placed(0, 1, epoch=ONE, patience=Patience(Backoff(2), 0.0))
    for rank in (0, 1):
        scene.given(rank, connect(rank), state=TaskState.TIMED_OUT, reason="no end within 15 s")
        scene.runner(rank, RunnerState.LOADED)
    said = scene.go()
    assert "r-0 on n1 is ended: its line failed 3 times in a row" in said
    assert [type(message) for _, message in scene.sent] == [Kill, Kill]


def test_a_process_that_lives_and_says_nothing_is_replaced() -> None:
    scene = Scene()
    scene.placed(0, 1)
    scene.runner(0, RunnerState.LOADED)
    scene.runner(1, RunnerState.LOADED, silent_s=4.0)
    assert scene.go() == ["r-1 on n2 is ended: its process lives but has said nothing for 4.0 s"]
    assert scene.sent == [
        ("n2", Kill(runner_id="r-1", grace_s=0.0, reason=scene.sent[0][1].reason, term=1))
    ]


def test_nothing_is_accused_of_silence_by_a_controller_that_slept() -> None:
    scene = Scene()
    scene.ready(ONE)
    for name in ("n1", "n2"):
        scene.node(name, f"r-{int(name[1]) - 1}", silent_s=20.0)
    for rank in (0, 1):
        scene.runner(rank, RunnerState.READY, epoch=ONE, silent_s=20.0)
    scene.awake_since = NOW - 0.5
    assert scene.go() == []


def test_a_lost_node_without_a_substitute_makes_the_instance_wait_and_its_return_resumes_it() -> (
    None
):
    scene = Scene()
    scene.placed(0, 1)
    scene.runner(0, RunnerState.LOADED)
    scene.runner(1, RunnerState.LOADED, silent_s=4.0)
    scene.node("n2", "r-1", silent_s=4.0)
    assert scene.go() == [
        "n2 is lost: silent for 4.0 s, and nobody vouches for it",
        "n2 is lost, and r-1 with it",
        "i-1 (smol) waits: rank 1 needs n2, which is lost; "
        "asked for at least 2 nodes, 1 node ready",
    ]
    assert scene.inst.state is InstanceState.WAITING
    assert scene.inst.seats[0].runner == "r-0", "its layers are kept"
    assert scene.go() == []
    del scene.runners["r-1"]
    scene.node("n2", incarnation="b")
    assert scene.go()[1:] == [
        "i-1 goes on: what it waited for is there",
        f"r-1-1 is launched on n2 for i-1/1, {NEED['n2']} reserved",
    ]


def test_a_lost_nodes_layers_go_to_another_node_that_has_room() -> None:
    scene = Scene()
    scene.placed(0, 1)
    scene.runner(0, RunnerState.LOADED)
    scene.runner(1, RunnerState.LOADED, silent_s=4.0)
    scene.node("n2", "r-1", silent_s=4.0)
    scene.node("n3")
    said = " / ".join(scene.go())
    assert "i-1 (smol) is placed: rank 0 on n1 (layers 0–15), rank 1 on n3" in said
    assert "rank 1 needs n2, which is lost" in said
    assert "is launched on n3" in said
    assert "is launched on n1" not in said


def test_a_neighbour_that_hears_a_silent_driver_vouches_for_it() -> None:
    scene = Scene()
    scene.ready(ONE)
    scene.node("n1", "r-0", silent_s=20.0)
    scene.runner(0, RunnerState.READY, epoch=ONE, silent_s=20.0)
    assert scene.go() == [
        "n1 is unreachable: silent for 20.0 s, but not all of its runners are; nothing moves"
    ]
    assert scene.inst.state is InstanceState.READY
    scene.runner(1, RunnerState.READY, epoch=ONE, hears=4.0)
    assert scene.go()[:2] == [
        "n1 is lost: silent for 20.0 s, and nobody vouches for it",
        "n1 is lost, and r-0 with it",
    ]


@pytest.mark.parametrize(("hears_s", "nodes_state"), [(0.2, "ready"), (4.0, "lost")])
def test_a_gateway_is_a_witness_of_the_driver_it_talks_to(hears_s: float, nodes_state: str) -> None:
    scene = Scene()
    scene.ready(ONE)
    scene.node("n1", "r-0", silent_s=5.0)
    scene.node("n2", "r-1", silent_s=5.0)
    for rank in (0, 1):
        scene.runner(rank, RunnerState.READY, epoch=ONE, silent_s=5.0)
    scene.gateway(links=(DriverLink(instance="i-1", epoch=ONE, silence_s=hears_s),))
    scene.go()
    expected = {"ready": "unreachable", "lost": "lost"}[nodes_state]
    assert scene.book.nodes["n1"] == expected


def test_a_gateways_word_on_an_older_epoch_counts_for_nothing() -> None:
    scene = Scene()
    scene.ready(TWO)
    scene.node("n1", "r-0", silent_s=5.0)
    scene.runner(0, RunnerState.READY, epoch=TWO, silent_s=5.0)
    scene.gateway(links=(DriverLink(instance="i-1", epoch=ONE, silence_s=60.0),))
    scene.go()
    assert scene.book.nodes["n1"] == "unreachable", "its neighbour hears it"


@pytest.mark.parametrize("work", ["load", "step"])
def test_a_runner_that_beats_and_does_not_work_is_replaced(work: str) -> None:
    scene = Scene()
    scene.ready(ONE)
    slow = WorkFacts(work=work, silent_s=4.9, patience_s=5.0)
    scene.runner(1, RunnerState.READY, epoch=ONE, work=slow)
    assert scene.go() == []
    scene.runner(1, RunnerState.READY, epoch=ONE, work=replace(slow, silent_s=5.1))
    assert scene.go() == [
        f"r-1 on n2 is ended: it is stuck: its {work} has not moved for 5.1 s "
        "(by its measured pace it is given 5.0 s)",
        "i-1: the line of epoch 1.1 is broken: rank 1 (r-1 on n2) is stuck",
    ]
    assert scene.inst.state is InstanceState.RECOVERING
    (kill,) = [order for _, order in scene.sent if isinstance(order, Kill)]
    assert kill.grace_s == 0.0


def test_after_a_pull_people_are_told_again_what_the_planner_says() -> None:
    scene = Scene()
    scene.wanted(wish={"min_nodes": 3})
    scene.go()
    why = scene.inst.reasons
    there = scene.models["smol"]
    scene.models["smol"] = ModelSeen(pulling="12 % of 98 MB")
    scene.go()
    assert "pulling smol: 12 %" in scene.inst.reasons[0]
    scene.models["smol"] = there
    scene.go()
    assert scene.inst.reasons == why


def test_any_rank_that_is_heard_says_that_the_line_stands() -> None:
    """Rank 1 of three is silent, and so are, for the controller, both its neighbours but one."""
    scene = Scene()
    scene.ready(ONE)
    scene.node("n1", "r-0", silent_s=30.0)
    scene.node("n2", "r-1", silent_s=30.0)
    for rank in (0, 1):
        scene.runner(rank, RunnerState.READY, epoch=ONE, silent_s=30.0)
    scene.node("n3")
    scene.gateway(links=(DriverLink(instance="i-1", epoch=ONE, silence_s=0.1),))
    scene.go()
    assert [scene.book.nodes[n] for n in ("n1", "n2")] == ["unreachable", "unreachable"]
    scene.gateway()
    scene.go()
    assert [scene.book.nodes[n] for n in ("n1", "n2")] == ["lost", "lost"]


def test_who_hears_nobody_is_away_itself() -> None:
    scene = Scene()
    scene.ready(ONE)
    for rank, node in ((0, "n1"), (1, "n2")):
        scene.node(node, f"r-{rank}", silent_s=300.0)
        scene.runner(rank, RunnerState.READY, epoch=ONE, silent_s=300.0)
    scene.go()
    assert set(scene.book.nodes.values()) == {"unreachable"}
    assert scene.inst.state is InstanceState.READY


def test_a_node_that_was_lost_is_given_nothing_until_it_has_beaten_for_a_while() -> None:
    scene = Scene()
    scene.wanted()
    back = scene.nodes["n2"]
    for heard_at, state in ((NOW - 1.2, "suspect"), (NOW - 0.5, "ready")):
        scene.nodes["n2"] = replace(back, heard_at=heard_at, steady_since=NOW - 2.6)
        scene.go()
        assert scene.book.nodes["n2"] == state


def test_a_deletion_waits_for_a_process_that_could_be_anyones() -> None:
    scene = Scene()
    scene.wanted(wish={"deleted": True}, state=InstanceState.DRAINING)
    scene.node("n1", "r-0-9")
    assert scene.go() == ["r-0-9 on n1 is ended: no seat needs it"]
    assert scene.inst.reasons == ("draining: waiting to see r-0-9 gone",)
    scene.node("n1")
    assert scene.go()[-1] == "i-1 (smol) is gone, and all its runners with it"


def test_a_spare_runner_is_kept_for_its_instance_only_as_long_as_it_speaks() -> None:
    scene = Scene()
    scene.wanted(wish={"min_nodes": 3})
    scene.node("n1", "r-0")
    scene.runner(0, RunnerState.LOADED, silent_s=9.0)
    assert not [said for said in scene.go() if "is ended" in said]
    scene.runner(0, RunnerState.LOADED, silent_s=11.0)
    assert scene.go() == ["r-0 on n1 is ended: no seat needs it"]


@pytest.mark.parametrize("is_known", [True, False])
def test_a_spare_runner_that_is_stuck_is_kept_for_nobody(is_known: bool) -> None:
    scene = Scene()
    if is_known:
        scene.placed(0)
    scene.wanted(wish={"min_nodes": 3})
    scene.node("n1", "r-0")
    work = WorkFacts(work="step", silent_s=4.9, patience_s=5.0)
    scene.runner(0, RunnerState.READY, epoch=ONE, work=work)
    assert not [said for said in scene.go() if "is ended" in said]
    scene.runner(0, RunnerState.READY, epoch=ONE, work=replace(work, silent_s=5.1))
    (said,) = scene.go()
    assert said.startswith("r-0 on n1 is ended: ")


def test_a_spare_runner_that_is_stuck_gets_no_seat() -> None:
    scene = Scene()
    scene.placed(1)
    scene.node("n1", "r-0")
    stuck = WorkFacts(work="step", silent_s=5.1, patience_s=5.0)
    scene.runner(0, RunnerState.READY, epoch=ONE, work=stuck)
    said = scene.go()
    assert "r-0 on n1 is ended: it is stuck, and sits on no seat" in said
    assert not [sentence for sentence in said if "r-0 on n1 takes" in sentence]


# --- blank runners -------------------------------------------------------------------------------


BLANK = PROCESS_BYTES


def test_a_calm_node_gets_a_blank_runner_and_only_one() -> None:
    scene = Scene()
    scene.ready(ONE)
    scene.node("n1", "r-0", blanks=1)
    assert scene.go() == ["r-1-1 is launched on n1 as a blank runner, 180 MiB reserved"]
    launch = Launch(runner_id="r-1-1", incarnation="a", memory_bytes=BLANK, term=1)
    assert [message for to, message in scene.sent if to == "n1"] == [launch]
    assert scene.go() == []
    scene.node("n1", "r-0", "r-1-1", blanks=1, holding={"r-1-1": BLANK})
    scene.blank("r-1-1", "n1")
    assert scene.go() == []


@pytest.mark.parametrize("failures", [0, 1])
def test_first_answers_come_before_blank_runners_unless_something_failed(failures: int) -> None:
    scene = Scene()
    scene.ready(ONE)
    patience = Patience(Backoff(ends=failures))
    scene.book.instances["i-1"] = replace(scene.inst, ready_since=NOW, patience=patience)
    launched = "r-1-1 is launched on n1 as a blank runner, 180 MiB reserved"
    scene.node("n1", "r-0", blanks=1)
    assert scene.go() == ([launched] if failures else [])
    scene.now = NOW + FIRST_ANSWERS_S
    for rank, node in ((0, "n1"), (1, "n2")):
        scene.node(node, f"r-{rank}", blanks=node == "n1")
        scene.runner(rank, RunnerState.READY, epoch=ONE)
    assert scene.go() == ([] if failures else [launched])


def test_a_node_with_work_to_do_or_without_room_gets_no_blank_runner() -> None:
    scene = Scene()
    scene.placed(0, 1)
    for rank, node in ((0, "n1"), (1, "n2")):
        scene.node(node, f"r-{rank}", blanks=1)
        scene.runner(rank, RunnerState.LOADING)
    assert scene.go() == []
    scene.ready(ONE)
    for rank, node in ((0, "n1"), (1, "n2")):
        memory = MEMORY[node] + BLANK - 1
        scene.node(node, f"r-{rank}", blanks=1, memory_bytes=memory)
    assert scene.go() == []


def test_a_blank_runner_takes_the_seat_of_a_dead_one_and_its_node_reserves_the_memory() -> None:
    scene = Scene()
    scene.ready(ONE)
    scene.node("n2", "r-1", blanks=1)
    scene.go()
    killed = ProcessExit(runner_id="r-1", pid=7, code=-9, sentence="killed by SIGKILL")
    listed = {"exits": (killed,), "blanks": 1}
    scene.node("n2", "r-1-1", holding={"r-1-1": BLANK}, **listed)
    scene.blank("r-1-1", "n2")
    scene.sent.clear()
    assert scene.go() == [
        "r-1 on n2 killed by SIGKILL",
        f"r-1-1 on n2 takes i-1/1, it is idle; {NEED['n2']} reserved",
    ]
    reserve = Reserve(runner_id="r-1-1", incarnation="a", memory_bytes=MEMORY["n2"], term=1)
    assert scene.sent == [("n2", reserve)]
    assert "waits for n2 to reserve its memory" in scene.inst.reasons[0]
    scene.now += 1.0
    scene.node("n2", "r-1-1", holding={"r-1-1": BLANK}, **listed)
    scene.go()
    assert scene.sent == [("n2", reserve), ("n2", reserve)], "told again"
    scene.node("n2", "r-1-1", **listed)
    assert scene.go() == ["rank 1 (r-1-1 on n2) of i-1 is asked to have smol on disk"]


def test_a_blank_runner_that_is_still_starting_is_waited_for() -> None:
    scene = Scene()
    scene.node("n1", blanks=1)
    scene.node("n2", blanks=1)
    scene.go()
    scene.wanted()
    assert scene.go()[1:] == [
        f"r-1-1 on n1 takes i-1/0, it is still starting; {NEED['n1']} reserved",
        f"r-1-2 on n2 takes i-1/1, it is still starting; {NEED['n2']} reserved",
    ]


def test_blank_runners_take_no_room_from_what_is_placed() -> None:
    scene = Scene()
    for name in ("n1", "n2"):
        scene.node(name, blanks=1, memory_bytes=MEMORY[name])
    scene.go()
    scene.wanted()
    said = scene.go()
    assert f"r-1-1 on n1 takes i-1/0, it is still starting; {NEED['n1']} reserved" in said


def test_a_blank_runner_that_dies_is_replaced_with_growing_pauses() -> None:
    scene = Scene()
    scene.node("n1", blanks=1)
    assert len(scene.go()) == 1
    for number, pause in ((1, 0.0), (2, 0.5), (3, 1.0)):
        died = ProcessExit(runner_id=f"r-1-{number}", pid=7, code=1, sentence="ended with code 1")
        scene.node("n1", blanks=1, exits=(died,))
        said = scene.go()
        assert said[0] == f"r-1-{number} on n1 ended with code 1"
        assert len(said) == (2 if pause == 0.0 else 1)
        scene.now += pause
        scene.node("n1", blanks=1)
        scene.node("n2")
        assert len(scene.go()) == (0 if pause == 0.0 else 1)


def test_a_restarted_controller_keeps_the_blank_runner_that_it_finds() -> None:
    scene = Scene(term=2, started_at=NOW - 1.0)
    scene.node("n1", "r-1-9", blanks=1, holding={"r-1-9": BLANK})
    scene.blank("r-1-9", "n1")
    assert scene.go() == ["r-1-9 on n1 stands ready as a blank runner, as it did before"]
    scene.started_at = NOW - 60.0
    assert scene.go() == []


def test_a_blank_runner_that_works_for_nobody_is_ended_after_a_while() -> None:
    """An earlier controller's order came late, and the fetch that it asked for hangs."""
    scene = Scene()
    scene.node("n1", blanks=1)
    scene.go()
    scene.node("n1", "r-1-1", holding={"r-1-1": BLANK}, blanks=1)
    scene.blank("r-1-1", "n1", RunnerState.FETCHING)
    assert scene.go() == []
    busy = scene.runners["r-1-1"]
    scene.runners["r-1-1"] = replace(busy, facts=replace(busy.facts, since_s=12.0))
    assert scene.go()[0] == "r-1-1 on n1 is ended: it is blank, and has been fetching for 12 s"


def test_a_blank_runner_that_has_no_room_does_not_keep_the_controller_awake() -> None:
    scene = Scene()
    scene.node("n1", blanks=1, memory_bytes=1)
    assert scene.go() == []
    decision = decide(scene.facts(), scene.book, scene.now)
    assert decision.next_wake > scene.now


@pytest.mark.parametrize(
    ("silent_s", "limit_s"), [(1.4, DEFAULT_TIMING.suspect_s), (2.9, DEFAULT_TIMING.lost_s)]
)
def test_it_looks_again_in_the_moment_in_which_a_silence_counts_for_more(
    silent_s: float, limit_s: float
) -> None:
    scene = Scene()
    scene.node("n1", silent_s=silent_s)
    before = node_state(scene.facts(), scene.book, "n1", scene.now, DEFAULT_TIMING)
    at = scene.decision().next_wake
    assert at == pytest.approx(scene.now + limit_s - silent_s, abs=0.002)
    assert node_state(scene.facts(), scene.book, "n1", at, DEFAULT_TIMING) is not before


def test_it_looks_again_in_the_moment_in_which_no_witness_is_needed_any_more() -> None:
    scene = Scene()
    scene.node("n1", silent_s=DEFAULT_TIMING.hung_s - 0.1)
    assert scene.decision().next_wake == pytest.approx(scene.now + 0.1, abs=0.002)


def test_a_blank_runner_too_many_is_ended() -> None:
    scene = Scene()
    scene.node("n1", blanks=1)
    scene.go()
    scene.node("n1", "r-1-1", holding={"r-1-1": BLANK}, blanks=0)
    scene.blank("r-1-1", "n1")
    assert scene.go() == ["r-1-1 on n1 is ended: n1 keeps 0 blank runners"]


def test_an_exception_in_one_instance_leaves_the_others_alone() -> None:
    scene = Scene()
    scene.models["broken"] = ModelSeen(facts=replace(SMOL, layer_params=()))
    scene.wanted(wish={"id": "i-0", "model": "broken"})
    scene.wanted()
    said = scene.go()
    assert said[0].startswith("i-0")
    assert any(sentence.startswith("i-1 (smol) is placed") for sentence in said)


# --- waiting -------------------------------------------------------------------------------------


def test_without_memory_it_waits_with_reasons_and_goes_on_when_a_node_comes() -> None:
    scene = Scene()
    for name in ("n1", "n2"):
        scene.node(name, memory_bytes=GIB // 4)
    scene.wanted()
    scene.go()
    assert scene.inst.state is InstanceState.WAITING
    assert scene.inst.reasons[0] == "waiting: smol does not fit on 2 nodes (all that are ready)"
    assert all(reason.startswith("waiting: ") for reason in scene.inst.reasons)
    assert scene.go() == []
    for name in ("n3", "n4"):
        scene.node(name)
    said = scene.go()
    assert any("i-1 (smol) is placed" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("seen", "reason", "pulls"),
    [
        (ModelSeen(), "waiting: smol is not on this machine yet", True),
        (ModelSeen(pulling="34 % of 98 MB"), "waiting: pulling smol: 34 % of 98 MB", False),
        (
            ModelSeen(failure="no route", retry_at=NOW + 5),
            "waiting: smol cannot be used: no route (tried again in 5 s)",
            False,
        ),
        (ModelSeen(failure="no route", retry_at=NOW), "waiting: smol is not", True),
    ],
)
def test_a_model_that_is_not_there_is_pulled_and_waited_for(
    seen: ModelSeen, reason: str, pulls: bool
) -> None:
    scene = Scene()
    scene.wanted()
    scene.models["smol"] = seen
    first = scene.decide()
    scene.act(*first)
    assert scene.inst.reasons[0].startswith(reason)
    assert (("pull", "smol") in scene.sent) == pulls


# --- repetition and lateness ---------------------------------------------------------------------


def test_repeated_facts_give_no_second_order() -> None:
    scene = Scene()
    scene.placed(0, 1)
    scene.runner(0, RunnerState.IDLE, loaded=False)
    scene.go()
    sent = list(scene.sent)
    for _ in range(5):
        assert scene.go() == []
    assert scene.sent == sent


def test_an_order_without_effect_is_sent_again_after_a_second_as_the_same_task() -> None:
    scene = Scene()
    scene.placed(0, 1)
    scene.runner(0, RunnerState.IDLE, loaded=False)
    scene.given(0, Fetch(task_id="fetch-9", epoch=ONE, deadline_s=60, model="smol"))
    scene.given(0, connect(0), sent_at=NOW - 1.5)
    again = [action for action in scene.decide() if isinstance(action, OrderAgain)]
    assert [action.task_id for action in again] == ["connect-0"]
    scene.act(*again)
    assert scene.sent == [("runner:r-0", Assign(connect(0)))]


def test_a_launch_that_no_inventory_shows_is_told_again() -> None:
    scene = Scene()
    scene.placed(0, 1)
    scene.runner(0, RunnerState.LOADED)
    late = replace(scene.book.runners["r-1"], in_inventory=False, sent_at=NOW - 1.5, ordered_at=NOW)
    scene.book.runners["r-1"] = late
    scene.node("n2")
    (again,) = [action for action in scene.decide() if isinstance(action, TellAgain)]
    assert again.order == Launch(
        runner_id="r-1", incarnation="a", memory_bytes=MEMORY["n2"], term=1
    )


def test_a_late_report_is_told_once_and_changes_nothing() -> None:
    scene = Scene()
    scene.ready(ONE)
    task = WarmUp(task_id="warm_up-1", epoch=Epoch(1, 0), deadline_s=60)
    scene.given(0, task, state=TaskState.TIMED_OUT)
    late = status("warm_up-1", TaskState.COMPLETE)
    scene.runner(0, RunnerState.READY, epoch=ONE, tasks=(late,))
    assert scene.go() == [
        "warm_up-1 on r-0 is reported complete after it ended timed_out; nothing changes"
    ]
    assert scene.book.tasks["warm_up-1"].state is TaskState.TIMED_OUT


def test_a_task_ends_by_its_deadline_and_loads_by_their_progress() -> None:
    scene = Scene()
    scene.placed(0, 1, epoch=ONE)
    old = NOW - 100.0
    for rank in (0, 1):
        scene.runner(rank, RunnerState.CONNECTING, epoch=ONE)
        scene.given(rank, connect(rank), ordered_at=old, state=TaskState.RUNNING)
    said = scene.go()
    assert said[0] == "connect on r-0 is timed_out: no end within 15 s (connect-0)"
    load = Load(
        task_id="load-1",
        epoch=ONE,
        deadline_s=60,
        seat=Seat("i-1", 0),
        model="smol",
        shard=PLACED.seats[0].shard,
        dtype="float32",
        kv_pages=1,
        memory_bytes=1,
    )
    slow = Scene()
    slow.placed(0, 1)
    slow.runner(0, RunnerState.LOADING, loaded=False)
    slow.given(0, load, ordered_at=old, moved_at=NOW - 50.0, state=TaskState.RUNNING)
    assert slow.go() == []
    slow.now += 15.0
    slow.awake_since = slow.now
    assert "load on r-0 is timed_out: no progress within 60 s (load-1)" in slow.go()


# --- a controller that starts again --------------------------------------------------------------


def test_a_restarted_controller_adopts_a_standing_line_as_it_is() -> None:
    scene = Scene(term=2, started_at=NOW - 1.0)
    scene.wanted(inherited=True)
    for rank, node in enumerate(("n1", "n2")):
        scene.node(node, f"r-{rank}")
        scene.runner(rank, RunnerState.READY, epoch=ONE)
    assert scene.go() == [
        "i-1 (smol) lives: adopted r-0 on n1, r-1 on n2; its line of epoch 1.1 stands",
        "i-1 (smol) is ready: all of epoch 1.1 are",
    ]
    assert scene.inst.epoch == ONE
    assert not any(isinstance(message, Assign | Launch | Kill) for _, message in scene.sent)


def test_a_restarted_controller_launches_nothing_before_the_living_could_speak() -> None:
    scene = Scene(term=2, started_at=NOW - 1.0)
    scene.wanted(inherited=True)
    scene.node("n1", "r-0")
    scene.runner(0, RunnerState.LOADED)
    assert scene.go() == []
    assert scene.inst.reasons == ("waiting: looking for its runners from before the restart",)
    scene.started_at = NOW - 5.0
    said = scene.go()
    assert f"r-0 on n1 takes i-1/0, with its layers; {NEED['n1']} reserved" in said
    assert f"r-2-1 is launched on n2 for i-1/1, {NEED['n2']} reserved" in said


def test_runners_that_no_seat_needs_are_ended() -> None:
    scene = Scene(term=2)
    scene.node("n1", "r-0")
    scene.runner(0, RunnerState.READY, epoch=ONE)
    assert scene.go() == ["r-0 on n1 is ended: no seat needs it"]
    assert isinstance(scene.sent[0][1], Kill)
    assert scene.go() == []


@pytest.mark.parametrize("speaks", [True, False])
def test_strangers_are_left_alone_until_everyone_could_speak(speaks: bool) -> None:
    scene = Scene(term=2, started_at=NOW - 1.0)
    scene.node("n1", "r-0")
    if speaks:
        scene.runner(0, RunnerState.READY, epoch=ONE)
    assert scene.go() == []
    scene.started_at = NOW - 5.0
    assert scene.go() == (["r-0 on n1 is ended: no seat needs it"] if speaks else [])
    scene.started_at = NOW - 15.0
    assert scene.go() == ([] if speaks else ["r-0 on n1 is ended: no seat needs it"])


def test_a_runner_on_which_its_seat_fails_again_and_again_is_replaced() -> None:
    scene = Scene()
    scene.placed(0, 1)
    scene.runner(1, RunnerState.LOADED)
    scene.runner(0, RunnerState.FAILED, loaded=False)
    fetch = Fetch(task_id="fetch-1", epoch=ONE, deadline_s=60, model="smol")
    scene.given(0, fetch, state=TaskState.FAILED)
    for failures, said in ((3, "is asked to have smol"), (4, "failed 4 times in a row")):
        seat = replace(scene.inst.seats[0], patience=Patience(Backoff(failures), 0.0))
        inst = replace(scene.inst, seats=(seat, scene.inst.seats[1]))
        scene.book.instances["i-1"] = inst
        (sentence,) = scene.go()
        assert said in sentence
        scene.book.tasks = {"fetch-1": scene.book.tasks["fetch-1"]}


def test_an_instance_that_fails_again_and_again_is_called_failed_and_tried_on() -> None:
    scene = Scene()
    scene.placed(0, 1, patience=Patience(Backoff(5), NOW + 2.0), trouble="no hello")
    for rank in (0, 1):
        scene.runner(rank, RunnerState.LOADED)
    assert scene.go() == [
        "i-1 (smol) is called failed after 5 failures in a row; it is tried on with growing pauses"
    ]
    assert scene.inst.state is InstanceState.FAILED
    assert scene.inst.reasons[1:3] == (
        "failed: the line broke: no hello",
        "failed: connected again in 2 s",
    )
    scene.now += 1.4
    scene.book.instances["i-1"] = replace(scene.inst, patience=Patience(Backoff(5), NOW))
    assert scene.go()[0] == "i-1 gets epoch 1.1: all 2 ranks hold their layers"


def test_an_instance_that_comes_back_each_time_is_not_called_failed() -> None:
    scene = Scene()
    scene.placed(0, 1, patience=Patience(Backoff(6), NOW + 2.0), outlived=5)
    for rank in (0, 1):
        scene.runner(rank, RunnerState.LOADED)
    assert scene.go() == []


def test_ten_seconds_of_health_forgive_everything() -> None:
    scene = Scene()
    scene.ready(ONE)
    for ready_since, fresh in ((NOW - 9.0, False), (NOW - 10.0, True)):
        scene.book.instances["i-1"] = replace(
            scene.inst, patience=Patience(Backoff(3), 0.0), ready_since=ready_since
        )
        scene.go()
        assert scene.inst.is_fresh == fresh


# --- the end -------------------------------------------------------------------------------------


def test_a_deleted_instance_is_stopped_and_forgotten_when_all_its_runners_are_gone() -> None:
    scene = Scene()
    scene.ready(ONE)
    scene.book.instances["i-1"] = replace(scene.inst, wish=replace(scene.inst.wish, deleted=True))
    assert scene.go() == [
        "i-1 (smol) is ended: its user asked for it",
        "rank 0 (r-0 on n1) of i-1 is asked to stop",
        "rank 1 (r-1 on n2) of i-1 is asked to stop",
    ]
    assert scene.inst.reasons == ("draining: waiting to see r-0, r-1 gone",)
    assert all(isinstance(message.task, Stop) for _, message in scene.sent)
    scene.node("n1")
    assert scene.go()[:1] == ["r-0 is no longer among the processes of n1"]
    assert "i-1" in scene.book.instances
    scene.node("n2")
    assert scene.go()[-1] == "i-1 (smol) is gone, and all its runners with it"
    assert not scene.book.instances
    assert not scene.book.runners


def test_who_does_not_heed_a_stop_is_killed() -> None:
    scene = Scene()
    scene.ready(ONE)
    wish = replace(scene.inst.wish, deleted=True)
    scene.book.instances["i-1"] = replace(scene.inst, wish=wish, state=InstanceState.DRAINING)
    for rank in (0, 1):
        stop = Stop(task_id=f"stop-{rank}", epoch=ONE, deadline_s=5)
        scene.given(rank, stop, ordered_at=NOW - 5.0)
    assert scene.go() == [
        "r-0 on n1 is ended: it was asked to stop 5 s ago",
        "r-1 on n2 is ended: it was asked to stop 5 s ago",
    ]
