"""A placement that a person wrote: checked, never corrected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from paceline.planner.budget import NodeBudget
from paceline.planner.cost import Edges
from paceline.planner.memory import MemoryModel
from paceline.planner.plan import placement
from paceline.planner.reasons import overflow
from paceline.planner.wish import kv_pages, memory_model
from paceline.types.errors import InvalidRequest
from paceline.types.ids import NodeName
from paceline.types.instance import InstanceWish, ManualSeat, Placement
from paceline.types.links import NO_LINKS, Links
from paceline.types.model import ModelFacts


def place_manually(
    model: ModelFacts,
    nodes: Sequence[NodeBudget],
    wish: InstanceWish,
    seats: Sequence[ManualSeat],
    *,
    links: Links = NO_LINKS,
) -> Placement:
    """The placement with its forecast. The wish's counts and objective do not matter: whoever
    writes down a placement has decided. Raises InvalidRequest with the first thing that is wrong.
    """
    memory = memory_model(model, wish)
    by_name = {node.name: node for node in nodes}
    _check_order(seats)
    _check_nodes(seats, by_name)
    _check_layers(seats, memory.layers)
    pages = kv_pages(model, wish)
    _check_room(memory, seats, by_name, pages)
    _check_links(seats, links)
    parts = [(by_name[seat.node], seat.start, seat.stop) for seat in seats]
    return placement(memory, links, pages, parts)


def _check_order(seats: Sequence[ManualSeat]) -> None:
    if not seats:
        raise InvalidRequest("a placement needs at least rank 0")
    for expected, seat in enumerate(seats):
        if seat.rank != expected:
            raise InvalidRequest(
                f"ranks must be 0, 1, 2 … in this order; where rank {expected} should be is rank "
                f"{seat.rank} ({seat.node})"
            )


def _check_nodes(seats: Sequence[ManualSeat], by_name: Mapping[NodeName, NodeBudget]) -> None:
    taken: dict[str, int] = {}
    for seat in seats:
        if seat.node not in by_name:
            known = ", ".join(sorted(by_name)) or "none"
            raise InvalidRequest(
                f"rank {seat.rank}: no node {seat.node!r} is ready; ready: {known}"
            )
        if seat.node in taken:
            raise InvalidRequest(
                f"rank {seat.rank}: {seat.node} has rank {taken[seat.node]} already; a node takes "
                "one rank of an instance"
            )
        taken[seat.node] = seat.rank


def _check_layers(seats: Sequence[ManualSeat], layers: int) -> None:
    reached = 0
    for seat in seats:
        if not 0 <= seat.start < seat.stop <= layers:
            raise InvalidRequest(
                f"rank {seat.rank} ({seat.node}): [{seat.start}, {seat.stop}) is no range of the "
                f"model's {layers} layers"
            )
        if seat.start > reached:
            raise InvalidRequest(
                f"rank {seat.rank} ({seat.node}) starts at layer {seat.start}: nobody has layers "
                f"{reached}–{seat.start - 1}"
            )
        if seat.start < reached:
            raise InvalidRequest(
                f"rank {seat.rank} ({seat.node}) starts at layer {seat.start}: layers {seat.start}–"
                f"{min(reached, seat.stop) - 1} are with an earlier rank"
            )
        reached = seat.stop
    if reached < layers:
        raise InvalidRequest(f"nobody has layers {reached}–{layers - 1}")


def _check_room(
    memory: MemoryModel,
    seats: Sequence[ManualSeat],
    by_name: Mapping[NodeName, NodeBudget],
    pages: int,
) -> None:
    for seat in seats:
        node, shard = by_name[seat.node], memory.shard(seat.start, seat.stop)
        need = memory.rank_bytes(shard, pages)
        if need > node.free_bytes:
            raise InvalidRequest(f"rank {seat.rank}: {overflow(node, seat.start, seat.stop, need)}")


def _check_links(seats: Sequence[ManualSeat], links: Links) -> None:
    edges = Edges(links, {seat.node for seat in seats})
    onward = [*seats[1:], seats[0]]
    for one, other in zip(seats, onward, strict=True):
        if edges.between(one.node, other.node).bad:
            raise InvalidRequest(
                f"the link from rank {one.rank} ({one.node}) to rank {other.rank} ({other.node}) "
                "is known to be bad"
            )
