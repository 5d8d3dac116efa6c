"""Which nodes hold most layers together: the two ends chosen with care, in the middle those with
the most room. Where layers are alike and no edge is bad, this finds a line if there is one, and one
node more never makes it miss one."""

from __future__ import annotations

import numpy as np

from paceline.planner.relaxed import FIRST, LAST, MIDDLE, Floats, Relaxed
from paceline.planner.table import Ints

ENDS = 64
"""Nodes that are tried at each end; where a line has more, as many as that. Whatever nodes hold all
layers, as many of the roomiest do too."""


def packed_order(relaxed: Relaxed, count: int) -> Ints | None:
    """`count` nodes, two or more, that hold as many layers as any, if these are enough."""
    middle = relaxed.caps[:, MIDDLE]
    by_room = np.argsort(-middle, kind="stable")
    place = np.argsort(by_room, kind="stable")
    most = np.cumsum([0.0, *middle[by_room]])
    first, last = (_able(relaxed.caps[:, end])[: max(ENDS, count)] for end in (FIRST, LAST))
    if not len(first) or not len(last) or count > len(middle):
        return None
    # In the middle the roomiest count - 2; where an end is one of these, the next steps in.
    low = np.minimum(place[first][:, None], place[last])
    high = np.maximum(place[first][:, None], place[last])
    lower = low < count - 2
    higher = high < count - 2 + lower
    inner = most[count - 2 + lower + higher]
    inner = inner - lower * middle[by_room[low]] - higher * middle[by_room[high]]
    total = relaxed.caps[first, FIRST][:, None] + relaxed.caps[last, LAST] + inner
    total[first[:, None] == last] = -1
    a, b = np.unravel_index(int(total.argmax()), total.shape)
    between = by_room[(by_room != first[a]) & (by_room != last[b])][: count - 2]
    if total[a, b] < relaxed.layers or (middle[between] < 1).any():
        return None
    return np.array([first[a], *between, last[b]])


def fewest_nodes(relaxed: Relaxed, least: int, ceiling: int) -> int | None:
    """The smallest count, two or more, for which there is a packed order."""
    most = np.cumsum([0.0, *-np.sort(-relaxed.caps[:, MIDDLE])])
    ends = relaxed.caps[:, FIRST].max() + relaxed.caps[:, LAST].max()
    for count in range(max(least, 2), ceiling + 1):
        if ends + most[count - 2] >= relaxed.layers and packed_order(relaxed, count) is not None:
            return count
    return None


def _able(caps: Floats) -> Ints:
    """Nodes with room for a layer, the roomiest first."""
    able = np.flatnonzero(caps >= 1)
    return able[np.argsort(-caps[able], kind="stable")]
