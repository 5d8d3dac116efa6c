"""The kernels as functions of tensors, every argument checked before C sees an address."""

from __future__ import annotations

import ctypes
import threading

import torch
from torch import Tensor

from paceline.types.errors import EngineError

PAGE_KEYS = 64
MOST_HEAD_DIM = 256
MOST_GROUP = 64
MOST_THREADS = 256

ISA_NUMBERS = {"portable": 0, "avx2": 1, "avx512": 2}

_address, _size, _isa = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int


class _AttentionCall(ctypes.Structure):
    """`attention_call` of csrc/kernels.h, field by field."""

    _fields_ = [
        *((name, _address) for name in ("q", "k", "v", "row_pos", "row_table", "tables", "out")),
        *((name, _size) for name in ("rows", "heads", "kv_heads", "head_dim", "pages", "spans")),
        *((name, _size) for name in ("table_pages", "window")),
        *((name, ctypes.c_float) for name in ("scale", "softcap")),
    ]


_SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "paceline_build": (ctypes.c_char_p, []),
    "paceline_has_isa": (ctypes.c_int, [_isa]),
    "paceline_set_threads": (None, [ctypes.c_int]),
    "paceline_threads": (ctypes.c_int, []),
    "paceline_linear": (None, [_isa, *[_address] * 4, *[_size] * 3]),
    "paceline_attention": (ctypes.c_int, [_isa, _address, _address]),
    "paceline_rms_norm": (None, [_isa, *[_address] * 3, *[_size] * 2, ctypes.c_float]),
    "paceline_silu_mul": (None, [_isa, *[_address] * 3, _size]),
}

# By status code, see csrc/kernels.h.
_ATTENTION_FAULTS = {
    1: "no memory is left for the scores; use a shorter context or fewer rows in a batch",
    2: "its position is negative or lies beyond its page table",
    3: "its row_table names no row of the page tables",
    4: "its page table names a page that the cache does not have",
}

# The library keeps one pool of threads and one set of buffers per process.
_one_caller = threading.Lock()


def declare(library: ctypes.CDLL) -> None:
    """Declare the library's functions. Raises AttributeError if one is missing."""
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments


def _require(name: str, tensor: Tensor, dims: int, dtype: torch.dtype = torch.float32) -> None:
    if (
        tensor.dtype is not dtype
        or tensor.dim() != dims
        or not tensor.is_cpu
        or not tensor.is_contiguous()
    ):
        raise EngineError(
            f"a kernel was given {name} as {tensor.dtype} {list(tensor.shape)} on {tensor.device}"
            f"{'' if tensor.is_contiguous() else ', not contiguous'}; "
            f"it needs a contiguous {dtype} CPU tensor with {dims} dimensions"
        )


def _require_that(holds: bool, rule: str, **tensors: Tensor) -> None:
    if not holds:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise EngineError(f"a kernel was given shapes that do not fit: {shapes}; {rule}")


class Kernels:
    """One instruction set's kernels.

    All tensors are contiguous and on the CPU, and float32 where nothing else is said. A result
    row's bits depend on that row's inputs alone: not on the other rows, their number or order, the
    placement of pages, or the number of threads. Calls from several threads wait for each other.
    A call with arguments that do not fit raises EngineError and computes nothing.
    """

    def __init__(self, library: ctypes.CDLL, isa: str) -> None:
        self._library = library
        self._isa = ISA_NUMBERS[isa]
        self.isa = isa
        self.name = f"{library.paceline_build().decode()}-{isa}"

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

    def supports(self, heads: int, kv_heads: int, head_dim: int) -> bool:
        """Whether `attention` handles these head shapes."""
        return (
            0 < kv_heads <= heads <= kv_heads * MOST_GROUP
            and heads % kv_heads == 0
            and 0 < head_dim <= MOST_HEAD_DIM
            and head_dim % 8 == 0
        )

    def linear(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [rows, K] times w [N, K] transposed, plus bias [N]: [rows, N]."""
        _require("x", x, 2)
        _require("w", w, 2)
        rows, depth = x.shape
        columns = w.shape[0]
        _require_that(w.shape[1] == depth > 0, "x is [rows, K], w is [N, K], K > 0", x=x, w=w)
        if bias is not None:
            _require("bias", bias, 1)
            _require_that(bias.shape[0] == columns, "w is [N, K], bias is [N]", w=w, bias=bias)
        out = torch.empty(rows, columns)
        with _one_caller:
            self._library.paceline_linear(
                self._isa,
                x.data_ptr(),
                w.data_ptr(),
                None if bias is None else bias.data_ptr(),
                out.data_ptr(),
                rows,
                depth,
                columns,
            )
        return out

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

        q: [rows, heads, head_dim]. k, v: [pages, kv_heads, 64, head_dim]. row_pos: int64 [rows],
        the row's position in its sequence. row_table: int32 [rows], its row of `tables`. tables:
        int32 [n_spans, max_pages], page ids in the order of the sequence. A row at position p
        sees the keys max(0, p - window + 1) to p, or 0 to p if window is 0. Scores are
        softcap * tanh(score / softcap), or left alone if softcap is 0. Query head h reads
        key-value head h // (heads // kv_heads). `supports` says which head shapes work.
        """
        self._check_attention(q, k, v, row_pos, row_table, tables, window, softcap)
        rows, heads, head_dim = q.shape
        pages, kv_heads = k.shape[:2]
        spans, table_pages = tables.shape
        out = torch.empty(rows, heads * head_dim)
        addresses = [t.data_ptr() for t in (q, k, v, row_pos, row_table, tables, out)]
        sizes = (rows, heads, kv_heads, head_dim, pages, spans, table_pages, window)
        call = _AttentionCall(*addresses, *sizes, scale, softcap)
        culprit = ctypes.c_int64()
        with _one_caller:
            status = self._library.paceline_attention(
                self._isa, ctypes.addressof(call), ctypes.addressof(culprit)
            )
        if status:
            row = culprit.value
            raise EngineError(
                f"attention cannot compute row {row} of {rows}: {_ATTENTION_FAULTS[status]} "
                f"(position {int(row_pos[row])}, row_table {int(row_table[row])}, "
                f"tables {list(tables.shape)}, {pages} pages)"
            )
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
        _require("q", q, 3)
        _require("k", k, 4)
        _require("v", v, 4)
        _require("row_pos", row_pos, 1, torch.int64)
        _require("row_table", row_table, 1, torch.int32)
        _require("tables", tables, 2, torch.int32)
        rows, heads, head_dim = q.shape
        _require_that(
            k.shape == v.shape and k.shape[2] == PAGE_KEYS and k.shape[3] == head_dim,
            f"k and v are [pages, kv_heads, {PAGE_KEYS}, head_dim], q is [rows, heads, head_dim]",
            q=q,
            k=k,
            v=v,
        )
        _require_that(
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

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Each row of x [rows, width] over its root mean square, times weight [width]."""
        _require("x", x, 2)
        _require("weight", weight, 1)
        rows, width = x.shape
        fits = weight.shape[0] == width > 0
        _require_that(fits, "x is [rows, width], weight is [width]", x=x, weight=weight)
        out = torch.empty(rows, width)
        with _one_caller:
            self._library.paceline_rms_norm(
                self._isa, x.data_ptr(), weight.data_ptr(), out.data_ptr(), rows, width, eps
            )
        return out

    def silu_mul(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) * up, element by element, for gate and up [rows, width]."""
        _require("gate", gate, 2)
        _require("up", up, 2)
        _require_that(gate.shape == up.shape, "gate and up have one shape", gate=gate, up=up)
        out = torch.empty(gate.shape)
        with _one_caller:
            self._library.paceline_silu_mul(
                self._isa, gate.data_ptr(), up.data_ptr(), out.data_ptr(), gate.numel()
            )
        return out
