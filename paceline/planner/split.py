"""Where to cut the layers, given the nodes of the line in order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from paceline.planner.memory import MemoryModel
from paceline.types.model import Shard


def split_layers(memory: MemoryModel, free: Sequence[int], kv_pages: int) -> tuple[Shard, ...]:
    """Cut into `len(free)` shards so that the fullest node is as empty as possible.

    Minimises the largest share bytes/free over the ranks, exactly, by dynamic programming over
    (ranks used, layers placed); every rank gets at least one layer. The result may overflow a
    node (a share above 1) when nothing better exists: the caller checks.
    """
    layers, ranks = memory.layers, len(free)
    if ranks > layers:
        raise ValueError(f"{ranks} ranks cannot share {layers} layers")

    def share(rank: int, start: int, stop: int) -> float:
        return memory.rank_bytes(memory.shard(start, stop), kv_pages) / max(free[rank], 1)

    # best[stop]: (largest share so far, cuts) with the first `rank + 1` ranks covering [0, stop).
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for rank in range(ranks):
        still_needed = ranks - rank - 1
        reached: dict[int, tuple[float, tuple[int, ...]]] = {}
        for start, (fullest, cuts) in best.items():
            last = still_needed == 0
            for stop in (layers,) if last else range(start + 1, layers - still_needed + 1):
                candidate = (max(fullest, share(rank, start, stop)), (*cuts, stop))
                if stop not in reached or candidate < reached[stop]:
                    reached[stop] = candidate
        best = reached
    cuts = (0, *best[layers][1])
    return tuple(memory.shard(a, b) for a, b in pairwise(cuts))
