"""A cluster described in TOML: nodes and links that need not exist. docs/placement.md has the
format and an example."""

from __future__ import annotations

from typing import Annotated

import msgspec

from paceline.planner.budget import NodeBudget
from paceline.planner.sizes import parse_bytes, parse_rate
from paceline.types.errors import InvalidRequest
from paceline.types.ids import NodeName
from paceline.types.links import DEFAULT_BYTES_PER_S, DEFAULT_ROUND_TRIP_S, Link, Links

Name = Annotated[str, msgspec.Meta(min_length=1)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0)]


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """What a cluster file says, as the planner takes it."""

    nodes: tuple[NodeBudget, ...]
    links: Links


class _Node(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    memory: str
    reserved: str = "0"
    speed: str | None = None
    on_disk: bool = True


class _Edge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    round_trip_ms: Milliseconds | None = None
    bandwidth: str | None = None


class _Link(_Edge, frozen=True, kw_only=True, forbid_unknown_fields=True):
    between: tuple[Name, Name]
    bad: bool = False


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    node: tuple[_Node, ...] = ()
    link: tuple[_Link, ...] = ()
    links: _Edge = _Edge()


def parse_cluster(text: str) -> Described:
    """Raises InvalidRequest, which says what is wrong where."""
    try:
        file = msgspec.toml.decode(text, type=_File)
    except (ValueError, msgspec.MsgspecError) as error:
        raise InvalidRequest(f"no cluster description: {error}") from error
    names = [node.name for node in file.node]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidRequest(f"node {twice[0]!r} is described more than once")
    usual = Links(
        round_trip_s=_round_trip_s(file.links, DEFAULT_ROUND_TRIP_S),
        bytes_per_s=_bytes_per_s(file.links, DEFAULT_BYTES_PER_S),
    )
    return Described(
        nodes=tuple(_budget(node) for node in file.node),
        links=msgspec.structs.replace(
            usual, measured=tuple(_link(link, frozenset(names), usual) for link in file.link)
        ),
    )


def _budget(node: _Node) -> NodeBudget:
    memory, reserved = parse_bytes(node.memory), parse_bytes(node.reserved)
    if reserved > memory:
        raise InvalidRequest(
            f"node {node.name!r}: {node.reserved} of {node.memory} cannot be reserved"
        )
    return NodeBudget(
        name=NodeName(node.name),
        memory_bytes=memory,
        free_bytes=memory - reserved,
        seconds_per_byte=None if node.speed is None else 1 / parse_rate(node.speed),
        on_disk=node.on_disk,
    )


def _link(link: _Link, names: frozenset[str], usual: Links) -> Link:
    a, b = link.between
    if unknown := [name for name in (a, b) if name not in names]:
        raise InvalidRequest(f"link {a}–{b}: no node {unknown[0]!r} is described")
    if a == b:
        raise InvalidRequest(f"link {a}–{b}: a node needs no link to itself")
    return Link(
        a=NodeName(a),
        b=NodeName(b),
        round_trip_s=_round_trip_s(link, usual.round_trip_s),
        bytes_per_s=_bytes_per_s(link, usual.bytes_per_s),
        bad=link.bad,
    )


def _round_trip_s(edge: _Edge, usual: float) -> float:
    return usual if edge.round_trip_ms is None else edge.round_trip_ms / 1000


def _bytes_per_s(edge: _Edge, usual: float) -> float:
    return usual if edge.bandwidth is None else parse_rate(edge.bandwidth)
