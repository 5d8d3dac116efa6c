"""The kernels as functions of tensors, every argument checked before C sees an address."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from paceline.engine import int4
from paceline.engine.int8 import packed_depth
from paceline.engine.kernels import abi
from paceline.engine.kernels.checks import require, require_that
from paceline.engine.quantised import Bits, QuantisedMatrix, packed_shape
from paceline.engine.sampling.draw import GREEDY_BELOW, Ask
from paceline.types.errors import EngineError

PAGE_KEYS = 64
MOST_HEAD_DIM = 256
MOST_GROUP = 64
MOST_THREADS = 256

# By status code, see csrc/kernels.h.
_FAULTS = {
    1: "no memory is left for it; use a shorter context or fewer rows in a batch",
    2: "its position is negative or lies beyond its page table",
    3: "its row_table names no row of the page tables",
    4: "its page table names a page that the cache does not have",
    5: "an id is not one of the table's",
    6: "the largest logit of a row, or the sum of its weights, is not finite",
}

# The library keeps one pool of threads and one set of buffers per process.
_one_caller = threading.Lock()


class Kernels:
    """One instruction set's kernels.

    All tensors are contiguous and on the CPU, and float32 where nothing else is said. A result
    row's bits depend on that row's inputs alone: not on the other rows, their number or order, the
    placement of pages, or the number of threads. Calls from several threads wait for each other.
    A call with arguments that do not fit raises EngineError and computes nothing.
    """

    def __init__(self, library: ctypes.CDLL, isa: str) -> None:
        self._library = library
        self._isa = abi.ISA_NUMBERS[isa]
        self.isa = isa
        self.build = str(library.paceline_build().decode())
        """Names the bits of all that is the same on every instruction set."""
        self.name = f"{self.build}-{abi.FLOAT_ISAS.get(isa, isa)}"
        """Names the bits of `linear` too."""

    @property
    def threads(self) -> int:
        """How many threads a call may use, the caller's own included."""
        return int(self._library.paceline_threads())

    def set_threads(self, threads: int) -> None:
        """Use this many threads (1 to 256) for every call of this process from now on."""
        if not 1 <= threads <= MOST_THREADS:
            raise EngineError(f"kernels run on 1 to {MOST_THREADS} threads, not {threads}")
        with _one_caller:
            self._library.paceline_set_threads(threads)

    @property
    def has_many(self) -> bool:
        """Whether products of many rows have a kernel of their own."""
        return bool(self._library.paceline_has_many(self._isa))

    def set_many_rows(self, rows: int) -> None:
        """Use it from this many rows on, in this process; the bits are the same."""
        with _one_caller:
            self._library.paceline_set_many_rows(self._isa, rows)

    def supports(self, heads: int, kv_heads: int, head_dim: int) -> bool:
        """Whether `attention` handles these head shapes."""
        return (
            0 < kv_heads <= heads <= kv_heads * MOST_GROUP
            and heads % kv_heads == 0
            and 0 < head_dim <= MOST_HEAD_DIM
            and head_dim % 8 == 0
        )

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [rows, K] times weight [N, K] transposed, plus bias [N]: [rows, N]."""
        require("x", x, 2)
        require("weight", weight, 2)
        rows, depth = x.shape
        columns = weight.shape[0]
        fits = weight.shape[1] == depth > 0
        require_that(fits, "x is [rows, K], weight is [N, K], K > 0", x=x, weight=weight)
        _check_bias(bias, columns)
        out = torch.empty(rows, columns)
        with _one_caller:
            self._library.paceline_linear(
                self._isa,
                x.data_ptr(),
                weight.data_ptr(),
                _address(bias),
                out.data_ptr(),
                rows,
                depth,
                columns,
            )
        return out

    def quantised_linear(
        self, x: Tensor, weight: QuantisedMatrix, bias: Tensor | None = None
    ) -> Tensor:
        """x [rows, K], quantised by groups, times weight [N, K] transposed, plus bias [N]:
        [rows, N]. The same bits on every instruction set."""
        require("x", x, 2)
        matrix = quantised_matrix(weight, bias)
        require_that(x.shape[1] == weight.depth, f"x is [rows, {weight.depth}]", x=x)
        out = torch.empty(len(x), weight.columns)
        arguments = (x.data_ptr(), *x.shape, ctypes.addressof(matrix), out.data_ptr())
        self.call("paceline_quantised_linear", *arguments)
        return out

    def table(self, weight: QuantisedMatrix, ids: Tensor) -> Tensor:
        """Some columns, int64 [n], of the matrix as floats: [n, K]."""
        return self.table_of(quantised_matrix(weight, None), weight.depth, ids)

    def table_of(self, matrix: abi.Matrix, depth: int, ids: Tensor) -> Tensor:
        """Likewise, of a matrix as C sees it."""
        require("ids", ids, 1, torch.int64)
        if matrix.bits != 8:
            raise EngineError(f"a table is of int8 weights, not of int{matrix.bits}")
        out = torch.empty(len(ids), depth)
        arguments = (depth, ids.data_ptr(), len(ids), out.data_ptr())
        self.call("paceline_table", ctypes.addressof(matrix), *arguments)
        return out

    def encode(self, weights: Tensor) -> int4.Codes:
        """See `engine.encode`: the same on every instruction set."""
        require("weights", weights, 2)
        columns, depth = weights.shape
        rule = f"weights are [columns, a multiple of {int4.SHARING}]"
        require_that(depth % int4.SHARING == 0, rule, weights=weights)
        shape = (columns, depth // int4.SHARING)
        out = int4.Codes(
            torch.empty(weights.shape, dtype=torch.uint8),
            torch.empty(shape, dtype=torch.uint8),
            torch.empty(shape, dtype=torch.int8),
        )
        places = abi.Int4Codes(*(t.data_ptr() for t in (out.codes, out.steps, out.lows)))
        count = columns * shape[1]
        self.call("paceline_encode", weights.data_ptr(), count, ctypes.addressof(places))
        return out

    def finite(self, x: Tensor) -> bool:
        """Whether x [rows, width] is free of NaN and infinities."""
        require("x", x, 2)
        found = ctypes.c_int32()
        self.call("paceline_finite", x.data_ptr(), *x.shape, ctypes.addressof(found))
        return bool(found.value)

    def draw(self, asks: Sequence[Ask]) -> list[int]:
        """A token for each: see `sampling.draw.Draw`. The same on every instruction set."""
        vocab = len(asks[0].row) if asks else 0
        rows = (abi.DrawRow * len(asks))(*(_draw_row(ask, vocab) for ask in asks))
        if asks:
            self.call("paceline_draw", ctypes.addressof(rows), len(asks), vocab)
        return [row.token for row in rows]

    def call(self, function: str, *arguments: object) -> None:
        """One of the library's functions that return a status; raises EngineError on failure."""
        with _one_caller:
            status = getattr(self._library, function)(self._isa, *arguments)
        if status:
            raise EngineError(f"{function} failed: {_FAULTS[status]}")

    def call_on_rows(
        self, function: str, step: abi.StepRows | abi.AttentionCall, *arguments: object
    ) -> None:
        """Likewise, of a function that names the row at fault."""
        culprit = ctypes.c_int64()
        with _one_caller:
            status = getattr(self._library, function)(
                self._isa, *arguments, ctypes.addressof(culprit)
            )
        if status:
            raise EngineError(
                f"attention cannot compute row {culprit.value} of {step.rows}: {_FAULTS[status]} "
                f"({step.spans} page tables of {step.table_pages}, {step.pages} pages)"
            )

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        row_pos: Tensor,
        row_table: Tensor,
        tables: Tensor,
        scale: float,
        window: int = 0,
        softcap: float = 0.0,
    ) -> Tensor:
        """Causal attention over 64-key pages: [rows, heads * head_dim].

        q: [rows, heads, head_dim]. k: [pages, kv_heads, head_dim, 64] and v: [pages, kv_heads, 64,
        head_dim], both float32 or both float16. row_pos: int64 [rows], the row's position in its
        sequence. row_table: int32 [rows], its row of `tables`. tables: int32 [n_spans, max_pages],
        page ids in the order of the sequence. A row at position p sees the keys
        max(0, p - window + 1) to p, or 0 to p if window is 0. Scores are
        softcap * tanh(score / softcap), or left alone if softcap is 0. Query head h reads
        key-value head h // (heads // kv_heads). `supports` says which head shapes work. The same
        bits on every instruction set.
        """
        self._check_attention(q, k, v, row_pos, row_table, tables, window, softcap)
        rows, heads, head_dim = q.shape
        pages, kv_heads = k.shape[:2]
        spans, table_pages = tables.shape
        out = torch.empty(rows, heads * head_dim)
        addresses = [t.data_ptr() for t in (q, k, v, row_pos, row_table, tables, out)]
        shapes = (rows, heads, kv_heads, head_dim, heads * head_dim)
        sizes = (*shapes, pages, spans, table_pages, window)
        half = k.dtype is torch.float16
        call = abi.AttentionCall(*addresses, *sizes, scale, softcap, half)
        self.call_on_rows("paceline_attention", call, ctypes.addressof(call))
        return out

    def _check_attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        row_pos: Tensor,
        row_table: Tensor,
        tables: Tensor,
        window: int,
        softcap: float,
    ) -> None:
        cells = torch.float16 if k.dtype is torch.float16 else torch.float32
        require("q", q, 3)
        require("k", k, 4, cells)
        require("v", v, 4, cells)
        require("row_pos", row_pos, 1, torch.int64)
        require("row_table", row_table, 1, torch.int32)
        require("tables", tables, 2, torch.int32)
        rows, heads, head_dim = q.shape
        require_that(
            k.shape[:2] == v.shape[:2]
            and k.shape[2:] == (head_dim, PAGE_KEYS)
            and v.shape[2:] == (PAGE_KEYS, head_dim),
            f"k is [pages, kv_heads, head_dim, {PAGE_KEYS}], "
            f"v is [pages, kv_heads, {PAGE_KEYS}, head_dim], q is [rows, heads, head_dim]",
            q=q,
            k=k,
            v=v,
        )
        require_that(
            row_pos.shape[0] == row_table.shape[0] == rows,
            "row_pos and row_table have one entry for each row of q",
            q=q,
            row_pos=row_pos,
            row_table=row_table,
        )
        if not self.supports(heads, k.shape[1], head_dim):
            raise EngineError(
                f"the attention kernel does not handle {heads} heads over {k.shape[1]} key-value "
                f"heads of {head_dim}; ask `supports` first and use the reference instead"
            )
        if window < 0 or softcap < 0:
            raise EngineError(
                f"attention needs window and softcap of 0 or more, not {window} and {softcap}"
            )

    def norm(self, kind: str, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        """The "rms" or "layer" norm of each row of x [rows, width]. The same bits on every
        instruction set."""
        require("x", x, 2)
        norm = norm_weights(kind, weight, bias, eps)
        rows, width = x.shape
        fits = weight.shape[0] == width > 0
        require_that(fits, "x is [rows, width], weight is [width]", x=x, weight=weight)
        out = torch.empty(rows, width)
        arguments = (x.data_ptr(), rows, width, out.data_ptr())
        self.call("paceline_norm", ctypes.addressof(norm), *arguments)
        return out

    def activate(self, kind: str, gated: bool, x: Tensor) -> Tensor:
        """The "silu", "gelu" or "gelu_tanh" of x [rows, width]; if gated, of the first half of each
        row, times the other half: [rows, width / 2]. The same bits on every instruction set."""
        require("x", x, 2)
        rows, width = x.shape
        require_that(width > 0 and not (gated and width % 2), "x is [rows, width]", x=x)
        out = torch.empty(rows, width // 2 if gated else width)
        middle = abi.MlpMiddle(out.shape[1], abi.ACTIVATIONS[kind], gated)
        arguments = (x.data_ptr(), rows, out.data_ptr())
        self.call("paceline_activate", ctypes.addressof(middle), *arguments)
        return out


def _draw_row(ask: Ask, vocab: int) -> abi.DrawRow:
    row, params = ask.row, ask.params
    about = row.__array_interface__
    if about["shape"] != (vocab,) or about["typestr"] != "<f4" or about["strides"] or not vocab:
        raise EngineError(f"logits are float32 [{vocab}], not {row.dtype} {list(row.shape)}")
    temperature = 0.0 if params.temperature < GREEDY_BELOW else params.temperature
    return abi.DrawRow(
        about["data"][0], ask.u, params.top_p, temperature, params.min_p, params.top_k
    )


def quantised_matrix(weight: QuantisedMatrix, bias: Tensor | None) -> abi.Matrix:
    """The matrix as C sees it, for as long as its tensors live."""
    require("scales", weight.scales, 1)
    _check_bias(bias, weight.columns)
    if weight.bits not in get_args(Bits) or weight.depth < 1:
        raise EngineError(f"no kernel has int{weight.bits} weights {weight.depth} deep")
    shape = packed_shape(weight.columns, weight.depth, weight.bits)
    require("packed", weight.packed, len(shape), torch.uint8)
    fits = weight.packed.shape == shape
    fits = fits and (weight.bits == 8 or weight.depth % int4.GROUP == 0)
    require_that(fits, f"packed is {list(shape)}", packed=weight.packed, scales=weight.scales)
    addresses = (weight.packed.data_ptr(), weight.scales.data_ptr(), _address(bias))
    return abi.Matrix(*addresses, weight.columns, packed_depth(weight.depth), weight.bits)


def norm_weights(kind: str, weight: Tensor, bias: Tensor | None, eps: float) -> abi.NormWeights:
    """The norm as C sees it, for as long as its tensors live."""
    require("weight", weight, 1)
    _check_bias(bias, len(weight))
    return abi.NormWeights(weight.data_ptr(), _address(bias), eps, abi.NORMS[kind])


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _check_bias(bias: Tensor | None, columns: int) -> None:
    if bias is not None:
        require("bias", bias, 1)
        require_that(bias.shape[0] == columns, f"bias is [{columns}]", bias=bias)
