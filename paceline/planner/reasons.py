"""Why a placement is as it is, or why there is none: sentences for people."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from paceline.planner.budget import NodeBudget
from paceline.planner.cut import Load, lowest_peak
from paceline.planner.memory import MemoryModel
from paceline.planner.policy import Counts
from paceline.planner.sizes import human_bytes, human_share
from paceline.planner.table import NEVER, Ints, Line, Table
from paceline.types.instance import InstanceWish
from paceline.types.states import Objective

LISTED = 8
"""Nodes that are named one by one; further ones are a group."""

_FOR = {
    Objective.LATENCY: "for the fewest seconds per token of what holds the model",
    Objective.THROUGHPUT: "for the most tokens per second",
    Objective.MEMORY: "for the least memory on the fullest node",
}


def human_nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


# --- why so --------------------------------------------------------------------------------------


def why_so_many(wish: InstanceWish, disk_bytes: int, allowed: Counts, count: int) -> str:
    """Why a line has so many nodes."""
    said = human_nodes(count)
    if count > allowed.most:
        policy = human_nodes(allowed.most)
        return f"{said}, because the model does not fit on fewer, beyond the policy's {policy}"
    if count == wish.min_nodes > 1:
        return f"{said}, as asked for by min_nodes"
    if wish.objective is Objective.LATENCY and wish.min_nodes == 1:
        if count == 1:
            return "1 node, because the model fits and one node answers fastest"
        if count == 2:
            return "2 nodes, because the model does not fit on one"
    limit = "max_nodes" if wish.max_nodes else f"the policy for {disk_bytes / 1e9:.1f} GB on disk"
    return f"{said}, {_FOR[wish.objective]} within {limit} (up to {allowed.most})"


def why_kept(gain: float, moved: Sequence[int]) -> str:
    """`moved`: the ranks that are not."""
    ranks = f"rank{'s' if len(moved) > 1 else ''} {', '.join(map(str, moved))}"
    kept = f"all but {ranks} keep their layers" if moved else "kept where it is"
    if gain < 0.005:
        return f"{kept}: no other line is worth the move"
    return f"{kept}: the best other line would be only {100 * gain:.0f} % better"


# --- why not -------------------------------------------------------------------------------------


def too_few(wish: InstanceWish, nodes: Sequence[NodeBudget]) -> str:
    if not nodes:
        return "no node is ready; the instance starts when one joins"
    return f"asked for at least {human_nodes(wish.min_nodes)}, {human_nodes(len(nodes))} ready"


def evenest_line(table: Table, allowed: Counts) -> tuple[float, Line]:
    """On the roomiest nodes, cut so that the fullest is as empty as can be; and how full that one
    is, above 1 where it does not fit."""
    every = list(range(allowed.least, allowed.ceiling + 1))
    if len(every) > LISTED:
        every = [*every[:LISTED], allowed.ceiling]
    peaks = (lowest_peak(table.layers, range(count), _share_of(table)) for count in every)
    return min(peaks, key=lambda peak: peak[0])


def _share_of(table: Table) -> Load:
    def share(node: int, starts: Ints, stops: Ints) -> NDArray[np.float64]:
        used = table.bytes(starts, stops) / max(int(table.room[node]), 1)
        return np.where(starts < stops, used, np.inf)

    return share


def why_not(
    memory: MemoryModel,
    nodes: Sequence[NodeBudget],
    wish: InstanceWish,
    table: Table,
    allowed: Counts,
    kv_pages: int,
) -> tuple[str, ...]:
    """One sentence for all, then one for each node or group: what would have to change."""
    full, line = evenest_line(table, allowed)
    if full <= 1:
        return (f"{wish.model} fits, but no line avoids the bad links", *_bad_links(table, nodes))
    limit = _limit(wish, len(nodes), allowed.ceiling)
    said = [f"{wish.model} does not fit on {human_nodes(allowed.ceiling)} ({limit})"]
    over = [
        overflow(nodes[node], start, stop, need)
        for node, start, stop in line.parts
        if (need := memory.rank_bytes(memory.shard(start, stop), kv_pages)) > nodes[node].free_bytes
    ]
    said += over[:LISTED]
    if len(over) > LISTED:
        said.append(f"{human_nodes(len(over) - LISTED)} more of that line: too little room as well")
    if others := [node for i, node in enumerate(nodes) if i not in line.nodes]:
        most = max(others, key=lambda node: node.free_bytes)
        said.append(f"{human_nodes(len(others))} more: none has more than {room(most)}")
    return tuple(said)


def _limit(wish: InstanceWish, ready: int, ceiling: int) -> str:
    if ceiling == wish.max_nodes:
        return "max_nodes"
    return "all that are ready" if ceiling == ready else "one for each layer"


def overflow(node: NodeBudget, start: int, stop: int, need: int) -> str:
    layers = f"layer {start}" if stop == start + 1 else f"layers {start}–{stop - 1}"
    return f"{node.name}: needs {human_bytes(need)} for {layers}, has {room(node)}"


def room(node: NodeBudget) -> str:
    return human_share(max(node.free_bytes, 0), node.memory_bytes)


def _bad_links(table: Table, nodes: Sequence[NodeBudget]) -> list[str]:
    bad = [(a, b) for a, b in combinations(range(len(nodes)), 2) if table.hop[a, b] >= NEVER]
    said = [f"{nodes[a].name}–{nodes[b].name}: the link is bad" for a, b in bad[:LISTED]]
    return said + ([f"{len(bad) - LISTED} more links are bad"] if len(bad) > LISTED else [])
