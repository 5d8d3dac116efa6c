"""From a row of logits to a token: ranking, truncation, inverse-CDF draw, logprobs.

`scores` are logits minus the row's largest, over the temperature (so the largest is 0);
`weights` are exp(scores). Sums are float64 and in an order that only the row decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from paceline.engine.sampling.processors import Ids, Row
from paceline.types.stream import SamplingParams

GREEDY_BELOW = 1e-5
"""A temperature under this is greedy: dividing by it could only overflow."""

_BLOCK = 256
_DEPTHS = (2.0, 5.0, 10.0, 20.0, math.inf)


def draw(logits: Row, params: SamplingParams, u: float) -> int:
    """The token that `u` in [0, 1) picks from logits [vocab] under temperature (at least
    GREEDY_BELOW), min_p, top_k and top_p."""
    with np.errstate(over="ignore", under="ignore"):
        scores = (logits - logits.max()) / np.float32(params.temperature)
        weights = np.exp(scores)
    if params.min_p == 0.0 and params.top_k == 0 and params.top_p == 1.0:
        return invert_cdf(weights, u)
    ids = survivors(scores, weights, params)
    return int(ids[invert_cdf(weights[ids], u)])


def survivors(scores: Row, weights: Row, params: SamplingParams) -> Ids:
    """The ids that min_p, then top_k, then top_p leave, most likely first; at least one.

    Each keeps a head of the ranking: min_p the tokens of at least min_p times the largest
    probability, top_k the first k, top_p the shortest head that holds this share of what the
    others left.
    """
    allowed = weights >= np.float32(params.min_p)
    if params.top_k > 0:
        ranked = rank(scores, lambda ids: len(ids) >= params.top_k)[: params.top_k]
        ranked = ranked[allowed[ranked]]
        whole = weights[ranked].sum(dtype=np.float64)
    elif params.top_p < 1.0:
        whole = weights.sum(where=allowed, dtype=np.float64)
        share = params.top_p * whole
        ranked = rank(scores, lambda ids: weights[ids].sum(dtype=np.float64) >= share)
        ranked = ranked[allowed[ranked]]
    else:
        return np.flatnonzero(allowed)
    mass = weights[ranked].cumsum(dtype=np.float64)
    return ranked[: int(mass.searchsorted(params.top_p * whole)) + 1]


def rank(scores: Row, enough: Callable[[Ids], bool]) -> Ids:
    """The head of the ranking by (score descending, id ascending): long enough for `enough`, or
    all of it. Looks at the tail only where the head does not do, since sorting it is slow."""
    ids = np.arange(0)
    for depth in _DEPTHS:
        ids = np.flatnonzero(scores >= -depth)
        if enough(ids):
            break
    return ids[np.argsort(-scores[ids], kind="stable")]


def invert_cdf(weights: Row, u: float) -> int:
    """The first index whose cumulative weight exceeds `u` times the whole. Weights are at least 0
    and not all 0; an index of weight 0 is never taken."""
    blocks = np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK), dtype=np.float64)
    ends = blocks.cumsum()
    target = u * ends[-1]
    block = _first_above(ends, target)
    start = block * _BLOCK
    inside = weights[start : start + _BLOCK].cumsum(dtype=np.float64)
    before = ends[block - 1] if block else 0.0
    return start + _first_above(inside, target - before)


def _first_above(cumulative: np.ndarray[tuple[int], np.dtype[np.float64]], target: float) -> int:
    # Rounding may lift the target to the very end, behind which there is nothing to draw.
    below_end = np.nextafter(cumulative[-1], 0.0)
    return int(cumulative.searchsorted(min(target, below_end), side="right"))


def logprobs(logits: Row, token_id: int, count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The token's log-probability under logits [vocab], and (id, logprob) of the `count` most
    likely tokens; ties go to the lowest id."""
    scores = logits - logits.max()
    log_total = math.log(np.exp(scores).sum(dtype=np.float64))
    ids = rank(scores, lambda ids: len(ids) >= count)[:count]
    top = tuple((int(i), float(scores[i]) - log_total) for i in ids)
    return float(scores[token_id]) - log_total, top
