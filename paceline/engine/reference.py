"""A layer's operations in plain torch: the fallback, and the oracle of every kernel.

Why a row's bits depend on that row alone (measured with MKL, see the tests):

- A matrix product's bits depend on its number of rows, so there is only one: tiles of 16 rows for
  linear, 8 rows by the heads of a group for attention, filled up with zero rows.
- MKL shares one product out to threads by cutting it along K when that pays. It does not within a
  batched product whose inner dimension is at most 512, so every product is one of a batch (a
  single tile is made two by halving the columns), and longer ones are added up in blocks of 512.
- Attention goes page by page: products of 64 keys, an exact maximum over all pages, and sums
  added in page order. A page that a row does not see adds exact zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from paceline.checkpoint.architecture import Activation, Norm
from paceline.engine.elementwise import activate, exp, soft_capped
from paceline.engine.sampling.draw import Ask, draw_rows
from paceline.types.model import PAGE_TOKENS

_LINEAR_ROWS = 16
_INNER = 512
_QUERY_ROWS = 8
_SCORE_BYTES = 32 << 20
"""Scores held at once; more tiles are done in turn."""


class ReferenceOps:
    """`Ops` in torch. Threads of torch change its speed and nothing else."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x [rows, K], weight [N, K], bias [N] or None: [rows, N]."""
        rows, inner = x.shape
        columns = weight.shape[0]
        if rows <= _LINEAR_ROWS and columns % 2 == 0:
            tiles = _filled(x, _LINEAR_ROWS).expand(2, _LINEAR_ROWS, inner)
            weights = weight.view(2, columns // 2, inner).transpose(1, 2)
            y = _product(tiles, weights).transpose(0, 1).reshape(_LINEAR_ROWS, columns)
        else:
            count = max(2, -(-rows // _LINEAR_ROWS))
            tiles = _filled(x, count * _LINEAR_ROWS).view(count, _LINEAR_ROWS, inner)
            y = _product(tiles, weight.t().expand(count, inner, columns)).view(-1, columns)
        y = y[:rows]
        return y if bias is None else y + bias

    def norm(
        self, kind: Norm, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float
    ) -> Tensor:
        """x [rows, width], weight and bias [width]: like x."""
        if kind == "rms":
            return F.rms_norm(x, weight.shape, weight, eps)
        return F.layer_norm(x, weight.shape, weight, bias, eps)

    def activate(self, kind: Activation, gated: bool, x: Tensor) -> Tensor:
        """x [rows, width]; if gated, its first half activated, times the other half."""
        if not gated:
            return activate(kind, x.clone())
        gate, up = x.chunk(2, dim=1)
        return activate(kind, gate.contiguous()).mul_(up)

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        row_pos: Tensor,
        row_table: Tensor,
        tables: Tensor,
        scale: float,
        window: int,
        softcap: float,
    ) -> Tensor:
        """q [rows, heads, head_dim], k [pages, kv_heads, head_dim, 64] and v [pages, kv_heads, 64,
        head_dim] in float32 or float16, row_pos int64 [rows], row_table int32 [rows] (index into
        tables), tables int32 [spans, pages]: [rows, heads * head_dim]. A row at position p sees
        keys max(0, p - window + 1) .. p.
        """
        rows, heads, head_dim = q.shape
        kv_heads = k.shape[1]
        tile, place, starts = _tiles(row_table)
        positions = row_pos[starts, None].repeat(1, _QUERY_ROWS)
        positions[tile, place] = row_pos
        queries = q.new_zeros(len(starts), _QUERY_ROWS, heads, head_dim)
        queries[tile, place] = q
        queries = queries.view(len(starts), _QUERY_ROWS, kv_heads, -1, head_dim)
        queries = queries.permute(0, 2, 3, 1, 4).contiguous()
        pages = tables[row_table[starts].long()].long()

        held = int(row_pos.max()) // PAGE_TOKENS + 1
        tile_bytes = heads * _QUERY_ROWS * held * PAGE_TOKENS * q.element_size()
        at_once = max(1, _SCORE_BYTES // tile_bytes)
        out = torch.cat(
            [
                _attend(*some, k, v, scale, window, softcap)
                for some in zip(
                    torch.split(queries, at_once),
                    torch.split(positions, at_once),
                    torch.split(pages, at_once),
                    strict=True,
                )
            ]
        )
        out = out.permute(0, 3, 1, 2, 4)[tile, place]
        return out.reshape(rows, heads * head_dim)

    def draw(self, asks: Sequence[Ask]) -> list[int]:
        """See `sampling.draw.Draw`."""
        return draw_rows(asks)

    def finite(self, x: Tensor) -> bool:
        """Whether x is free of NaN and infinities."""
        return all(math.isfinite(bound) for bound in x.aminmax())


def _filled(x: Tensor, rows: int) -> Tensor:
    return F.pad(x, (0, 0, 0, rows - x.shape[0]))


def _product(tiles: Tensor, weights: Tensor) -> Tensor:
    """[tiles, 16, K] by [tiles, K, N] in blocks of K."""
    y = torch.bmm(tiles[..., :_INNER], weights[:, :_INNER])
    for start in range(_INNER, tiles.shape[-1], _INNER):
        stop = start + _INNER
        y.baddbmm_(tiles[..., start:stop], weights[:, start:stop])
    return y


def _tiles(row_table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cut each run of one sequence's rows into tiles: tile and place of every row, and the first
    row of every tile."""
    index = torch.arange(len(row_table))
    fresh = torch.ones_like(row_table, dtype=torch.bool)
    fresh[1:] = row_table[1:] != row_table[:-1]
    run_start = torch.where(fresh, index, 0).cummax(0).values
    place = (index - run_start) % _QUERY_ROWS
    return (place == 0).cumsum(0) - 1, place, (place == 0).nonzero().squeeze(1)


def _attend(
    q: Tensor,
    positions: Tensor,
    tables: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    window: int,
    softcap: float,
) -> Tensor:
    """q [tiles, kv_heads, group, 8, head_dim], positions [tiles, 8], tables [tiles, pages]: like q.

    Pass one: scores of every page and their maximum. Pass two: weights and their sums.
    """
    last = positions.amax(1)
    low = (positions.amin(1) - window + 1).clamp(min=0) if window else torch.zeros_like(last)
    top = q.new_full(q.shape[:-1], -torch.inf)
    seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for page in range(int(low.min()) // PAGE_TOKENS, int(last.max()) // PAGE_TOKENS + 1):
        keys = torch.arange(page * PAGE_TOKENS, (page + 1) * PAGE_TOKENS)
        live = ((low <= keys[-1]) & (keys[0] <= last)).nonzero().squeeze(1)
        held = tables[live, page]
        scores = _by_head(q[live], k[held].float()).mul_(scale)
        if softcap:
            soft_capped(scores, softcap)
        hidden = keys > positions[live, :, None]
        if window:
            hidden |= keys <= positions[live, :, None] - window
        scores.masked_fill_(hidden[:, None, None], -torch.inf)
        top[live] = top[live].maximum(scores.amax(-1))
        seen.append((live, held, keys, scores))

    total = torch.zeros_like(top)
    out = torch.zeros_like(q)
    for live, held, keys, scores in seen:
        weights = exp(scores.sub_(top[live][..., None]))
        unwritten = keys > last[live, None]
        values = v[held].float().masked_fill(unwritten[:, None, :, None], 0.0)
        total[live] += _row_sum(weights)
        out[live] += _by_head(weights, values)
    return out.div_(total[..., None])


def _by_head(rows: Tensor, page: Tensor) -> Tensor:
    """[tiles, kv_heads, group, 8, K] by [tiles, kv_heads, K, N]: [tiles, kv_heads, group, 8, N]."""
    inner, columns = page.shape[-2:]
    y = torch.bmm(rows.reshape(-1, rows.shape[2] * _QUERY_ROWS, inner), page.flatten(0, 1))
    return y.view(*rows.shape[:-1], columns)


def _row_sum(x: Tensor) -> Tensor:
    """Sum of the 64 last elements, always halved in the same way."""
    width = x.shape[-1]
    while width > 1:
        width //= 2
        x = x[..., :width] + x[..., width:]
    return x.squeeze(-1)
