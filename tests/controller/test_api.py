"""What people ask, and what they are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from paceline.checkpoint.manifest import MANIFEST_NAME
from paceline.checkpoint.store import Store
from paceline.controller.api import MAX_INSTANCES
from paceline.controller.book import InstanceBook
from paceline.controller.joining import WELCOME_S
from paceline.controller.operator import MAX_LIVE
from paceline.process.versions import versions
from paceline.types.control import Answer, Ask, NodeBeat
from paceline.types.ids import NodeName
from paceline.types.instance import InstanceWish
from paceline.types.join import JOIN, JoinRequest
from paceline.types.timing import DEFAULT_TIMING
from tests.simulation.models import OnDisk
from tests.simulation.world import World


class Shelf(OnDisk):
    """With a real store, which holds `smol` and nothing else."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.store = Store(home)
        directory = home / "models" / "smol"
        directory.mkdir(parents=True)
        (directory / MANIFEST_NAME).write_text("{}")


class Person:
    """Asks through a gateway and reads the answers."""

    def __init__(self, home: Path) -> None:
        self.world = World(nodes=2, models=Shelf(home))
        self.world.run(1.0)
        self.answers: list[Answer] = []
        self.number = 0
        self._post = self.world.controller._post
        self.world.controller._post = self._hear

    def _hear(self, peer: str, message: Any) -> bool:
        if isinstance(message, Answer):
            self.answers.append(message)
            return True
        return self._post(peer, message)

    def ask(self, verb: str, **body: Any) -> Answer:
        self.number += 1
        self.world.controller.take("gateway:g", Ask(number=self.number, verb=verb, body=body))
        return self.answers[-1]

    def told(self, verb: str, **body: Any) -> Any:
        answer = self.ask(verb, **body)
        assert not answer.error, answer
        return answer.body


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


def test_a_wish_is_on_disk_before_the_answer(person: Person) -> None:
    view = person.told("instances.create", model="smol", min_nodes=2)
    assert (view["model"], view["state"]) == ("smol", "wanted")
    (wish,) = person.world.store.wishes()
    assert (wish.id, wish.min_nodes) == (view["id"], 2)
    person.world.run(30.0, person.world.all_ready)
    view = person.told("instances.get", id=view["id"])
    assert view["reasons"]
    assert [runner["rank"] for runner in view["runners"]] == [0, 1]
    assert list(person.told("instances.list")) == [view]


@pytest.mark.parametrize(
    ("verb", "body", "code", "words"),
    [
        ("dance", {}, "invalid_request", "instances.create"),
        ("instances.create", {}, "invalid_request", "model"),
        ("instances.create", {"model": 3}, "invalid_request", "$.model"),
        ("instances.create", {"model": "../x"}, "invalid_request", "../x"),
        ("instances.create", {"model": "nope"}, "not_found", "smollm2-135m-instruct"),
        ("instances.create", {"model": "smol", "min_nodes": 0}, "invalid_request", "min_nodes"),
        ("instances.create", {"model": "smol", "min_nodes": "2"}, "invalid_request", "min_nodes"),
        (
            "instances.create",
            {"model": "smol", "min_nodes": 3, "max_nodes": 2},
            "invalid_request",
            "max_nodes",
        ),
        ("instances.create", {"model": "smol", "min_nodes": 31}, "invalid_request", "30 layers"),
        ("instances.create", {"model": "smol", "dtype": "float13"}, "invalid_request", "float13"),
        ("instances.create", {"model": "smol", "speed": 9}, "invalid_request", "speed"),
        ("instances.create", {"model": "smol", "objective": "fun"}, "invalid_request", "fun"),
        ("instances.get", {"id": "i-9"}, "not_found", "i-9"),
        ("instances.delete", {"id": "i-9"}, "not_found", "there are: none"),
        ("instances.get", {}, "invalid_request", "id"),
        ("events", {"limit": 0}, "invalid_request", "limit"),
        ("plan", {"model": "nope"}, "not_found", "nope"),
    ],
)
def test_what_cannot_be_is_refused_with_its_code_and_the_field(
    person: Person, verb: str, body: dict[str, Any], code: str, words: str
) -> None:
    answer = person.ask(verb, **body)
    assert answer.error == code
    assert words in answer.body["message"]
    assert not person.world.store.wishes()


def test_a_write_that_fails_leaves_nothing_wanted(person: Person) -> None:
    person.world.store._db.execute("PRAGMA query_only = ON")
    answer = person.ask("instances.create", model="smol")
    assert answer.error == "unavailable"
    assert not person.world.controller.book.instances


def test_a_repeated_question_is_not_a_second_wish(person: Person) -> None:
    ask = Ask(number=7, verb="instances.create", body={"model": "smol"})
    for _ in range(3):
        person.world.controller.take("gateway:g", ask)
    assert len(person.world.store.wishes()) == 1
    assert len({answer.body["id"] for answer in person.answers}) == 1


def test_delete_is_answered_at_once_and_ends_with_nothing_left(person: Person) -> None:
    world = person.world
    view = person.told("instances.create", model="smol")
    assert world.run(30.0, lambda: world.state(view["id"]) == "ready")
    person.told("instances.delete", id=view["id"])
    person.told("instances.delete", id=view["id"])
    assert world.store.wishes()[0].deleted
    assert world.run(30.0, lambda: not world.controller.book.instances)
    assert not list(world.runners())
    assert not world.store.wishes()
    assert person.ask("instances.get", id=view["id"]).error == "not_found"


def test_a_plan_is_shown_without_being_made(person: Person) -> None:
    body = person.told("plan", model="smol", min_nodes=2)
    assert [seat["node"] for seat in body["placement"]["seats"]] == ["node-1", "node-2"]
    assert body["reasons"]
    body = person.told("plan", model="smol", min_nodes=5)
    assert body["placement"] is None
    assert "2 nodes ready" in body["reasons"][0]
    assert not person.world.controller.book.instances


def test_status_explains_in_sentences(person: Person) -> None:
    body = person.told("status")
    assert body["term"] == 1
    assert body["sentences"][0].startswith("node-1 is ready: 0 MiB of")
    assert "no instance is wanted" in body["sentences"][-1]
    person.told("instances.create", model="smol", min_nodes=5)
    person.world.run(1.0)
    sentences = person.told("status")["sentences"]
    assert sentences[-2].endswith("waiting: asked for at least 5 nodes, 2 nodes ready")
    assert sentences[-1].endswith(
        "waiting: it goes on by itself when another node joins, or memory is freed"
    )


def test_nodes_and_events_are_told(person: Person) -> None:
    nodes = person.told("nodes.list")
    assert [(node["name"], node["state"]) for node in nodes] == [
        ("node-1", "ready"),
        ("node-2", "ready"),
    ]
    events = person.told("events", since=0, limit=1)
    assert [event["number"] for event in events] == [1]
    newest = person.world.events.newest
    assert person.told("events", since=newest) == []


def test_there_is_a_bound_on_wishes(person: Person) -> None:
    for number in range(MAX_INSTANCES):
        wish = InstanceWish(id=f"i-{number}", model="smol")
        person.world.controller.book.instances[wish.id] = InstanceBook(wish=wish)
    answer = person.ask("instances.create", model="smol")
    assert answer.error == "invalid_request"
    assert str(MAX_INSTANCES) in answer.body["message"]


# --- joining -------------------------------------------------------------------------------------


def join(person: Person, node: str = "new", origin: str = "h1:/home") -> Answer:
    request = JoinRequest(node=NodeName(node), versions=versions(), origin=origin)
    return person.ask(JOIN, **msgspec.to_builtins(request))


def test_nobody_joins_before_the_living_have_shown_themselves(person: Person) -> None:
    assert join(person).error == "settling"
    person.world.run(DEFAULT_TIMING.settle_s)
    assert not join(person).error


def test_a_name_is_given_away_once(person: Person) -> None:
    person.world.run(DEFAULT_TIMING.settle_s)
    assert not join(person).error
    person.world.run(5.0)
    refused = join(person, origin="h2:/home")
    assert refused.error == "unavailable"
    assert "was given to h1:/home 5.0 s ago" in refused.body["message"]
    assert not join(person).error, "the same machine may try again"
    assert not join(person, "other", origin="h2:/home").error
    person.world.run(WELCOME_S)
    assert not join(person, origin="h2:/home").error


def test_of_two_nodes_with_one_name_the_earlier_is_told_of_once(person: Person) -> None:
    controller = person.world.controller
    living = controller.facts().nodes[NodeName("node-1")].facts
    for number in (1, 2):
        clone = replace(living, incarnation="clone", host="h9", started_at=living.started_at - 1)
        controller.take("node:node-1:clone", NodeBeat(clone, number=number))
    (told,) = [e for e in person.told("events") if e["kind"] == "namesake"]
    assert "two nodes are named node-1" in told["sentence"]
    assert "the one on h9" in told["sentence"]


SEATS = (("node-1", 0, 10), ("node-2", 10, 30))


def seats(*cuts: tuple[str, int, int]) -> list[dict[str, Any]]:
    return [
        {"rank": rank, "node": node, "start": start, "stop": stop}
        for rank, (node, start, stop) in enumerate(cuts)
    ]


def test_a_placement_by_hand_is_previewed_and_taken(person: Person) -> None:
    body = person.told("plan", model="smol", seats=seats(*SEATS))
    assert [seat["node"] for seat in body["placement"]["seats"]] == ["node-1", "node-2"]
    assert body["placement"]["forecast"]["seconds_per_token"] > 0
    view = person.told("instances.create", model="smol", seats=seats(*SEATS))
    person.world.run(30.0, person.world.all_ready)
    view = person.told("instances.get", id=view["id"])
    assert [tuple(runner["layers"]) for runner in view["runners"]] == [(0, 10), (10, 30)]


@pytest.mark.parametrize(
    ("cuts", "words"),
    [
        ([("node-9", 0, 30)], "no node 'node-9' is ready"),
        ([("node-1", 0, 10), ("node-2", 11, 30)], "nobody has layers 10–10"),
        ([("node-1", 0, 10), ("node-2", 9, 30)], "layers 9–9 are with an earlier rank"),
        ([("node-1", 0, 10)], "nobody has layers 10–29"),
        ([("node-1", 0, 10), ("node-1", 10, 30)], "node-1 has rank 0 already"),
    ],
)
def test_a_placement_by_hand_that_cannot_be_is_refused(
    person: Person, cuts: list[tuple[str, int, int]], words: str
) -> None:
    for verb in ("plan", "instances.create"):
        answer = person.ask(verb, model="smol", seats=seats(*cuts))
        assert answer.error == "invalid_request"
        assert words in answer.body["message"]
    answer = person.ask("instances.create", model="smol", seats=seats(*SEATS), kv_tokens=4_000_000)
    assert "rank 0: node-1: needs" in answer.body["message"], "over budget"
    assert not person.world.controller.book.instances


# --- tasks by hand -------------------------------------------------------------------------------


@pytest.fixture
def serving(person: Person) -> Person:
    person.told("instances.create", model="smol", min_nodes=2)
    person.world.run(30.0, person.world.all_ready)
    return person


def driver(person: Person) -> str:
    (inst,) = person.world.controller.book.instances.values()
    return str(inst.seats[0].runner)


def ended(person: Person, task: dict[str, Any]) -> dict[str, Any]:
    """The task once it has ended."""
    person.world.run(5.0)
    return dict(person.told("tasks.get", id=task["id"]))


def test_an_impossible_task_by_hand_ends_failed_with_its_reason(serving: Person) -> None:
    runner = driver(serving)
    task = serving.told("tasks.create", runner=runner, kind="load")
    assert task["state"] == "pending"
    task = ended(serving, task)
    assert task["state"] == "failed"
    assert "load found the runner ready" in task["reason"]
    assert serving.world.all_ready()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"kind": "dance"}, "unknown kind of task 'dance'; known are fetch, load"),
        ({"kind": "load", "fields": {"kv_pages": "many"}}, "kv_pages"),
        ({"kind": "drain", "epoch": "soon"}, "cannot be read"),
        ({"kind": "drain", "epoch": [1]}, "epoch"),
        ({"kind": "connect", "epoch": [2**64 - 1, 2**64 - 1]}, "too far beyond"),
        ({"kind": "connect", "epoch": [1, 2**63]}, "too far beyond"),
        ({"kind": "drain", "epoch": [-(2**70), 0]}, "does not travel"),
        ({"kind": "load", "fields": {"kv_pages": 2**70}}, "does not travel"),
    ],
)
def test_a_task_that_cannot_be_read_is_a_failed_task(
    serving: Person, body: dict[str, Any], words: str
) -> None:
    answer = serving.ask("tasks.create", runner=driver(serving), **body)
    if answer.error:
        assert answer.error == "invalid_request"
        assert words in answer.body["message"]
        return
    assert answer.body["state"] == "failed"
    assert words in answer.body["reason"]
    assert serving.world.events.since(0)[-1].kind == "order_by_hand"


def test_a_stale_task_by_hand_is_refused_and_a_future_one_poisons_nothing(serving: Person) -> None:
    runner = driver(serving)
    stale = serving.told("tasks.create", runner=runner, kind="drain", epoch="0.1")
    assert "is stale" in ended(serving, stale)["reason"]
    future = serving.told("tasks.create", runner=runner, kind="connect", epoch="1.900")
    assert ended(serving, future)["state"] in ("cancelled", "failed")
    assert serving.world.run(60.0, serving.world.all_ready)
    (inst,) = serving.world.controller.book.instances.values()
    assert inst.epoch is not None
    assert inst.epoch.n > 900


def test_a_repeated_task_by_hand_is_the_same_task(serving: Person) -> None:
    runner = driver(serving)
    first = serving.told("tasks.create", runner=runner, kind="load", task_id="mine")
    end = ended(serving, first)
    assert serving.told("tasks.create", runner=runner, kind="load", task_id="mine") == end


def test_a_runner_that_is_drained_or_stopped_by_hand_is_replaced(serving: Person) -> None:
    for kind in ("drain", "stop"):
        runner = driver(serving)
        task = serving.told("tasks.create", runner=runner, kind=kind)
        assert ended(serving, task)["state"] == "complete"
        assert serving.world.run(60.0, serving.world.all_ready)
        assert driver(serving) != runner


def test_tasks_by_hand_are_for_runners_that_are_there_and_bounded(serving: Person) -> None:
    assert serving.ask("tasks.create", runner="r-9", kind="stop").error == "not_found"
    assert serving.ask("tasks.get", id="t-9").error == "not_found"
    runner = driver(serving)
    for _ in range(MAX_LIVE):
        serving.told("tasks.create", runner=runner, kind="drain")
    assert serving.ask("tasks.create", runner=runner, kind="drain").error == "invalid_request"
    assert [facts["runner_id"] for facts in serving.told("runners.list")]
