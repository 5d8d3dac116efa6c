"""What a hostile or confused controller might send to a runner, as Hypothesis strategies.

A shot is drawn without knowing the runner and aimed when it is fired: its epoch is relative to the
newest one that the runner has shown.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
from hypothesis import strategies as st

from paceline.types.ids import Epoch
from paceline.types.states import TaskKind

Fields = dict[str, Any]
pack = msgspec.msgpack.encode

SEAT = ("i-1", 0)
"""The seat that the proper tasks are about."""
LAYERS = 7
PAGES = 8


class Knock(msgspec.Struct, frozen=True, kw_only=True):
    """A task that can be read."""

    kind: str
    epoch: str
    deadline_s: float
    fields: Fields


class Next(msgspec.Struct, frozen=True):
    """The task that leads on from where the runner is, as a good controller sends it."""


class Repeat(msgspec.Struct, frozen=True, kw_only=True):
    """A task of before once more; `twin` has its id and is another task."""

    back: int
    twin: bool


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """A task with something wrong in it that its message still shows the id of."""

    kind: str
    change: Fields
    lost: str


class Raw(msgspec.Struct, frozen=True):
    """Bytes that name no task."""

    payload: bytes


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """A good message, cut off or with one byte changed."""

    at: float
    flip: int


class LineOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The offers and keys of a line, good or not."""

    epoch: str
    fields: Fields


class Listen(msgspec.Struct, frozen=True):
    """Nothing is sent for a moment."""

    seconds: float


class Stop(msgspec.Struct, frozen=True):
    """A stop that is not stale: the runner must obey it."""


Shot = Knock | Next | Repeat | Broken | Raw | Cut | LineOrder | Listen | Stop

WORDS = st.sampled_from(["", "x", "i-1", "../../etc", "ключ", "a\0b", "y" * 300, "z" * 2**16])
NUMBERS = st.sampled_from([0, 1, 2, -1, 7, 2**31, 2**62, -(2**63), 2**64 - 1])
ANYTHING = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.floats(), WORDS, st.binary(max_size=8),
    st.lists(NUMBERS, max_size=3), st.dictionaries(WORDS, NUMBERS, max_size=2),
)  # fmt: skip
EPOCHS = st.sampled_from(
    ["same", "next", "next", "next", "stale", "older term", "newer term", "future", "beyond"]
)
DEADLINES = st.sampled_from([0.1, 0.3, 0.3, 0.3, 2.0, 0.0, -1.0, math.nan, math.inf, 1e308])


def _mostly(proper: Any, odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(proper), st.just(proper), st.just(proper), odd)


SEATS = _mostly(SEAT, st.tuples(WORDS, NUMBERS))
SHARDS = _mostly(
    {"start": 0, "stop": LAYERS, "layers": LAYERS},
    st.fixed_dictionaries({"start": NUMBERS, "stop": NUMBERS, "layers": NUMBERS}),
)
MODELS = _mostly("tiny", st.one_of(WORDS, st.just("no-such-model"), st.just("broken")))
LOADS = st.fixed_dictionaries(
    {
        "seat": SEATS,
        "model": MODELS,
        "shard": SHARDS,
        "dtype": _mostly("float32", WORDS),
        "kv_pages": _mostly(PAGES, NUMBERS),
        "memory_bytes": NUMBERS,
    }
)
CONNECTS = st.fixed_dictionaries(
    {
        "seat": SEATS,
        "world_size": _mostly(1, NUMBERS),
        "nodes": st.lists(WORDS, max_size=2),
    }
)
FIELDS = {
    TaskKind.FETCH: st.fixed_dictionaries({"model": MODELS}),
    TaskKind.LOAD: LOADS,
    TaskKind.CONNECT: CONNECTS,
    TaskKind.WARM_UP: st.just({}),
}


def _knocks(kind: str, fields: st.SearchStrategy[Fields]) -> st.SearchStrategy[Knock]:
    return st.builds(Knock, kind=st.just(kind), epoch=EPOCHS, deadline_s=DEADLINES, fields=fields)


KNOCKS = st.one_of(*(_knocks(kind, fields) for kind, fields in FIELDS.items()))
STALE_STOPS = st.builds(
    Knock, kind=st.just("stop"), epoch=st.sampled_from(["stale", "older term"]),
    deadline_s=DEADLINES, fields=st.just({}),
)  # fmt: skip
DRAINS = _knocks("drain", st.just({}))
UNKNOWN = _knocks("dance", st.dictionaries(WORDS, ANYTHING, max_size=3))
NAMES = st.sampled_from(
    ["task_id", "type", "epoch", "deadline_s", "seat", "model", "shard", "kv_pages", "world_size"]
)
BROKEN = st.builds(
    Broken,
    kind=st.sampled_from(TaskKind),
    change=st.dictionaries(NAMES.filter(lambda name: name != "task_id"), ANYTHING, max_size=2),
    lost=NAMES.filter(lambda name: name != "task_id"),
)
RAW = st.builds(
    Raw,
    st.one_of(
        st.binary(max_size=40),
        ANYTHING.map(pack),
        st.dictionaries(WORDS, ANYTHING, max_size=3).map(pack),
        st.sampled_from(
            [
                pack({"type": "assign"}),
                pack({"type": "assign", "task": {"type": "load"}}),
                pack({"type": "assign", "task": {"type": "stop", "task_id": 7}}),
                pack({"type": "launch", "runner_id": "r", "incarnation": "x", "memory_bytes": 1}),
                b"\x81\xa1a" + b"\x91" * 50_000 + b"\xc0",
                b"\xdf\xff\xff\xff\xff",
                pack({"type": "assign", "task": {"task_id": "v" * 2**20, "type": "load"}}),
                b"\xc6\x00\x90\x00\x00" + bytes(9 * 2**20),
            ]
        ),
    ),
)
CUTS = st.builds(Cut, at=st.floats(0, 1), flip=st.integers(0, 255))
KEYS = st.one_of(st.just("k" * 40), WORDS)
OFFERS = st.fixed_dictionaries(
    {"rank": NUMBERS, "address": WORDS, "public_key": KEYS, "front_address": st.none() | WORDS}
)
LINES = st.builds(
    LineOrder,
    epoch=st.sampled_from(["same", "same", "next", "stale"]),
    fields=st.fixed_dictionaries(
        {"offers": st.lists(OFFERS, max_size=3), "gateway_keys": st.lists(KEYS, max_size=2)}
    ),
)
LISTENS = st.builds(Listen, st.sampled_from([0.001, 0.005, 0.02]))

_IN_A_THOUSAND: tuple[tuple[int, st.SearchStrategy[Shot]], ...] = (
    (340, KNOCKS),
    (240, st.just(Next())),
    (85, BROKEN),
    (100, st.builds(Repeat, back=st.integers(0, 40), twin=st.booleans())),
    (40, RAW),
    (40, CUTS),
    (40, LINES),
    (30, UNKNOWN),
    (50, LISTENS),
    (27, STALE_STOPS),
    (5, DRAINS),
    (3, st.just(Stop())),
)
SHOTS: st.SearchStrategy[Shot] = st.sampled_from(
    [strategy for weight, strategy in _IN_A_THOUSAND for _ in range(weight)]
).flatmap(lambda strategy: strategy)


def epoch_of(choice: str, newest: Epoch) -> Epoch:
    """The epoch that a choice means to a runner whose newest one this is."""
    term, n = newest.term, newest.n
    return {
        "same": newest,
        "next": Epoch(term, n + 1),
        "stale": Epoch(term, n - 1),
        "older term": Epoch(term - 1, n + 100),
        "newer term": Epoch(term + 1, 0),
        "future": Epoch(term + 1000, 2**20),
        "beyond": Epoch(2**64 - 1, 2**64 - 1),
    }[choice]
