"""From a wish, a model's sizes and the nodes' free memory to a placement, or to the reasons why
there is none. Deterministic: equal inputs give equal answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from paceline.planner.memory import (
    AUTO_DTYPE,
    DTYPES,
    STEP_ROWS,
    MemoryModel,
    human_bytes,
    pages_for,
)
from paceline.planner.policy import policy_nodes
from paceline.planner.split import split_layers
from paceline.types.errors import InvalidRequest
from paceline.types.ids import NodeName
from paceline.types.instance import (
    DEFAULT_CONTEXT,
    DEFAULT_SEQUENCES,
    InstanceWish,
    NoPlacement,
    Placement,
    SeatPlan,
)
from paceline.types.model import ModelFacts, Shard

TOKENS_PER_SEQUENCE = 512
"""KV that a sequence takes on average, for the default size of an instance."""


class NodeBudget(msgspec.Struct, frozen=True, kw_only=True):
    """What a node offers to placements, in bytes, and what of it nobody has reserved."""

    name: NodeName
    memory_bytes: int
    free_bytes: int


class _Attempt(msgspec.Struct, frozen=True):
    """One way to put the model on some nodes; `overflows` says where it does not fit."""

    seats: tuple[SeatPlan, ...]
    overflows: tuple[str, ...]


def plan(
    model: ModelFacts,
    nodes: Sequence[NodeBudget],
    wish: InstanceWish,
    *,
    sticky: Placement | None = None,
) -> Placement | NoPlacement:
    """Put `model` on as few of `nodes` as hold it, within the wish's bounds.

    Fewest nodes first, because one node answers fastest whenever the model fits. `sticky` is the
    placement that was: its nodes are kept where the count stays and the model still fits.
    Raises InvalidRequest for a wish that no cluster could ever meet.
    """
    memory = MemoryModel(model, resolve_dtype(wish.dtype))
    _validate(wish, memory)
    least, most = wish.min_nodes, min(wish.max_nodes or len(nodes), len(nodes), memory.layers)
    if least > most:
        return NoPlacement(reasons=(_too_few(wish, nodes),))
    kv_pages = pages_for(kv_tokens(model, wish))
    attempt: _Attempt | None = None
    for count in range(least, most + 1):
        for line in _lines(nodes, count, sticky):
            attempt = _attempt(memory, line, kv_pages)
            if not attempt.overflows:
                reasons = _reasons(model, wish, count, least)
                dtype = resolve_dtype(wish.dtype)
                return Placement(seats=attempt.seats, dtype=dtype, reasons=reasons)
    assert attempt is not None  # least <= most, so at least one count was tried
    return NoPlacement(reasons=_why_not(wish, most, attempt))


def resolve_dtype(dtype: str) -> str:
    resolved = AUTO_DTYPE if dtype == "auto" else dtype
    if resolved not in DTYPES:
        known = ", ".join(["auto", *sorted(DTYPES)])
        raise InvalidRequest(f"dtype {dtype!r} is not supported; use one of: {known}")
    return resolved


def kv_tokens(model: ModelFacts, wish: InstanceWish) -> int:
    """Tokens of KV that all sequences of the instance share."""
    if wish.kv_tokens is not None:
        return wish.kv_tokens
    one_context = min(model.max_context, DEFAULT_CONTEXT)
    return max(one_context, DEFAULT_SEQUENCES * min(TOKENS_PER_SEQUENCE, one_context))


def _validate(wish: InstanceWish, memory: MemoryModel) -> None:
    if wish.min_nodes < 1:
        raise InvalidRequest(f"min_nodes must be at least 1, not {wish.min_nodes}")
    if wish.max_nodes is not None and wish.max_nodes < wish.min_nodes:
        raise InvalidRequest(
            f"max_nodes ({wish.max_nodes}) must not be less than min_nodes ({wish.min_nodes})"
        )
    if wish.min_nodes > memory.layers:
        raise InvalidRequest(
            f"min_nodes is {wish.min_nodes}, but {wish.model} has only {memory.layers} layers"
        )
    if wish.kv_tokens is not None and wish.kv_tokens < STEP_ROWS:
        raise InvalidRequest(f"kv_tokens must be at least {STEP_ROWS}, not {wish.kv_tokens}")


def _lines(
    nodes: Sequence[NodeBudget], count: int, sticky: Placement | None
) -> Iterable[Sequence[NodeBudget]]:
    """Orders of nodes worth trying for a line of this length, best first."""
    if sticky is not None and sticky.world_size == count:
        by_name = {node.name: node for node in nodes}
        if all(seat.node in by_name for seat in sticky.seats):
            yield [by_name[seat.node] for seat in sticky.seats]
    yield sorted(nodes, key=lambda node: (-node.free_bytes, node.name))[:count]


def _attempt(memory: MemoryModel, line: Sequence[NodeBudget], kv_pages: int) -> _Attempt:
    shards = split_layers(memory, [node.free_bytes for node in line], kv_pages)
    seats, overflows = [], []
    for rank, (node, shard) in enumerate(zip(line, shards, strict=True)):
        need = memory.rank_bytes(shard, kv_pages)
        seats.append(
            SeatPlan(rank=rank, node=node.name, shard=shard, memory_bytes=need, kv_pages=kv_pages)
        )
        if need > node.free_bytes:
            overflows.append(_overflow(node, shard, need))
    return _Attempt(tuple(seats), tuple(overflows))


def _overflow(node: NodeBudget, shard: Shard, need: int) -> str:
    return (
        f"{node.name}: needs {human_bytes(need)} for layers {shard.start}–{shard.stop - 1}, "
        f"has {human_bytes(node.free_bytes)} free of {human_bytes(node.memory_bytes)}"
    )


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def _too_few(wish: InstanceWish, nodes: Sequence[NodeBudget]) -> str:
    if not nodes:
        return "no node is ready; the instance starts when one joins"
    return f"asked for at least {_nodes(wish.min_nodes)}, {_nodes(len(nodes))} ready"


def _reasons(model: ModelFacts, wish: InstanceWish, count: int, least: int) -> tuple[str, ...]:
    if count > least:
        policy = policy_nodes(model.disk_bytes)
        beyond = f", beyond the policy's {_nodes(policy)}" if count > policy else ""
        return (f"{_nodes(count)}, because the model does not fit on fewer{beyond}",)
    if wish.min_nodes > 1:
        return (f"{_nodes(count)}, as asked for by min_nodes",)
    return ("1 node, because the model fits and one node answers fastest",)


def _why_not(wish: InstanceWish, most: int, attempt: _Attempt) -> tuple[str, ...]:
    limit = "max_nodes" if wish.max_nodes == most else "all that are ready"
    return (f"{wish.model} does not fit on {_nodes(most)} ({limit})", *attempt.overflows)
