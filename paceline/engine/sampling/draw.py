"""From rows of logits to tokens: truncation, inverse-CDF draw, logprobs.

This is by the book, and what the C kernels do faster (csrc/draw.c).

`gaps` are the row's largest logit minus each logit: 0 for the most likely token. `weights` are
probabilities up to a common factor. Sums are float64, in an order that only the row decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from paceline.engine.sampling.processors import Ids, Row
from paceline.types.errors import EngineError
from paceline.types.stream import SamplingParams

GREEDY_BELOW = 1e-5
"""A temperature under this is greedy: dividing by it could only overflow."""

_BLOCK = 256
_BUCKETS = 2048
_BUCKETS_PER_NAT = 16
_DEPTHS = (4.0, 10.0)


class Ask(msgspec.Struct, frozen=True):
    """For the token that `u` in [0, 1) picks from logits [vocab]."""

    row: Row
    params: SamplingParams
    u: float


Draw = Callable[[Sequence[Ask]], list[int]]
"""A token for each. Raises EngineError where the largest logit of a row is not finite."""


def draw_rows(asks: Sequence[Ask]) -> list[int]:
    """See `Draw`."""
    return [draw(ask.row, ask.params, ask.u) for ask in asks]


def draw(logits: Row, params: SamplingParams, u: float) -> int:
    """The token that `u` picks under temperature (greedy: the likeliest), min_p, top_k, top_p."""
    best = int(logits.argmax())
    peak = logits[best]
    if not math.isfinite(peak):
        raise EngineError(f"logits are not finite: their largest is {peak}")
    if params.temperature < GREEDY_BELOW:
        return best
    gaps = peak - logits
    with np.errstate(over="ignore"):
        weights = np.exp(gaps / np.float32(-params.temperature))
    if params.min_p == 0.0 and params.top_k == 0 and params.top_p == 1.0:
        return invert_cdf(weights, u)
    ids = np.sort(survivors(weights, gaps, params))
    return int(ids[invert_cdf(weights[ids], u)])


def survivors(weights: Row, gaps: Row, params: SamplingParams) -> Ids:
    """The ids that min_p, top_k and top_p, in this order, leave.

    Each leaves a head of the ranking: min_p the tokens of at least min_p times the largest
    probability, top_k the first k, top_p the shortest head that holds this share of what the
    others left. The most likely token always stays.
    """
    ids = np.flatnonzero(weights >= np.float32(params.min_p))
    if params.top_k > 0:
        ids = ids[head(gaps[ids], np.ones_like(gaps[ids]), params.top_k)]
    if params.top_p < 1.0:
        left = weights[ids]
        ids = ids[head(gaps[ids], left, params.top_p * float(left.sum(dtype=np.float64)))]
    return ids


def head(gaps: Row, mass: Row, enough: float) -> Ids:
    """Indices of the shortest head of the ranking that has a `mass` of `enough`, or of all.

    The ranking is by gap, and by index where gaps are equal; of equal ones the result keeps the
    order. A histogram finds where the head ends, so that one bucket is sorted and no more.
    """
    near = _near(gaps, mass, enough)
    bucket = np.minimum(gaps[near] * _BUCKETS_PER_NAT, _BUCKETS - 1).astype(np.intp)
    reached = np.bincount(bucket, weights=mass[near], minlength=_BUCKETS).cumsum()
    edge = int(reached.searchsorted(enough))
    at_edge = _ranked(near[bucket == edge], gaps)
    before = reached[edge - 1] if edge else 0.0
    mass_at_edge = before + mass[at_edge].cumsum(dtype=np.float64)
    within = at_edge[: int(mass_at_edge.searchsorted(enough)) + 1]
    return np.concatenate([near[bucket < edge], within])


def _near(gaps: Row, mass: Row, enough: float) -> Ids:
    """A head of the ranking, unsorted, that is long enough and mostly far shorter than all."""
    for depth in _DEPTHS:
        near = np.flatnonzero(gaps <= depth)
        if mass[near].sum(dtype=np.float64) >= enough:
            return near
    return np.arange(len(gaps))


def _ranked(ids: Ids, gaps: Row) -> Ids:
    return ids[np.argsort(gaps[ids], kind="stable")]


def invert_cdf(weights: Row, u: float) -> int:
    """The first index whose cumulative weight exceeds `u` times the whole. Weights are at least 0
    and not all 0; an index of weight 0 is never taken."""
    blocks = np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK), dtype=np.float64)
    ends = blocks.cumsum()
    target = u * float(ends[-1])
    block = _first_above(ends, target)
    start = block * _BLOCK
    inside = weights[start : start + _BLOCK].cumsum(dtype=np.float64)
    before = float(ends[block - 1]) if block else 0.0
    return start + _first_above(inside, target - before)


def _first_above(cumulative: NDArray[np.float64], target: float) -> int:
    # Rounding may lift the target to the very end, behind which there is nothing to draw.
    below_end = math.nextafter(float(cumulative[-1]), 0.0)
    return int(cumulative.searchsorted(min(target, below_end), side="right"))


def logprobs(logits: Row, token_id: int, count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The token's log-probability under logits [vocab], and (id, logprob) of the `count` most
    likely tokens; ties go to the lowest id."""
    gaps = logits.max() - logits
    log_total = math.log(np.exp(-gaps).sum(dtype=np.float64))
    best = _ranked(head(gaps, np.ones_like(gaps), count), gaps)[:count]
    top = tuple((int(i), -float(gaps[i]) - log_total) for i in best)
    return -float(gaps[token_id]) - log_total, top
