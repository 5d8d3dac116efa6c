"""How the prompt rows of a step are shared out. Pure.

The prompt with the least left goes first: no other order makes prompts wait less in the mean, and
a short one waits for a step rather than for the 4,000 tokens that came before it. Alone this would
let short prompts keep a long one out for ever. So a quarter of every step belongs to the prompt
that came first, whoever else is there: one of `n` rows is through after at most 4 n / budget steps,
then the next one is first, and all come to their turn. It costs the others at most a third more.
"""

from __future__ import annotations

from collections.abc import Mapping

FIRST_COMER = 4
"""One part in so many belongs to who came first."""


def share_out(pending: Mapping[int, int], budget: int) -> dict[int, int]:
    """Rows of each slot in a step of `budget` rows, none of them 0. `pending` has the rows that
    each slot has left, in order of arrival."""
    if not pending or budget < 1:
        return {}
    first = next(iter(pending))
    rows = {first: min(pending[first], -(-budget // FIRST_COMER))}
    left = budget - rows[first]
    for slot in sorted(pending, key=lambda slot: pending[slot]):
        if left == 0:
            break
        more = min(pending[slot] - rows.get(slot, 0), left)
        if more:
            rows[slot] = rows.get(slot, 0) + more
            left -= more
    return rows
