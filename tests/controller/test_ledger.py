"""What counts on a node: runners until they are gone, seats until they have one, neither twice."""

from __future__ import annotations

from msgspec.structs import replace

from paceline.controller.book import InstanceBook
from paceline.controller.ledger import Ledger
from paceline.types.states import RunnerState
from tests.controller.scenes import MEMORY, WISH, Scene

ANOTHER = InstanceBook(wish=replace(WISH, id="i-2"))
ROOM = MEMORY["n1"] + 100


def test_an_empty_seat_and_the_spare_runner_that_it_may_take_are_not_both_counted() -> None:
    """As after the loss of a node that comes back with its runners: instances that count them
    twice keep each other waiting for ever."""
    scene = Scene()
    scene.placed()
    scene.runner(0, RunnerState.LOADED)
    scene.node("n1", "r-0", memory_bytes=ROOM)
    assert Ledger(scene.facts(), scene.book).free_for(ANOTHER, "n1") == 100


def test_of_a_spare_runner_that_is_smaller_than_the_seat_the_rest_counts_too() -> None:
    scene = Scene()
    scene.placed()
    scene.runner(0, RunnerState.LOADED)
    scene.node("n1", "r-0", memory_bytes=ROOM, holding={"r-0": 30})
    ledger = Ledger(scene.facts(), scene.book)
    assert ledger.free_for(ANOTHER, "n1") == 100
    assert ledger.room_for_seat(scene.inst, "n1") == ROOM - 30


def test_a_runner_on_a_seat_covers_no_other_seat() -> None:
    scene = Scene()
    scene.placed(0)
    empty = replace(scene.inst.seats[1], plan=replace(scene.inst.seats[1].plan, node="n1"))
    scene.book.instances["i-1"] = replace(scene.inst, seats=(scene.inst.seats[0], empty))
    ledger = Ledger(scene.facts(), scene.book)
    assert ledger.reserved("n1") == MEMORY["n1"] + empty.plan.memory_bytes
