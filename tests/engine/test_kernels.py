from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import structlog
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paceline.engine.kernels import Kernels, calls, library, load
from paceline.engine.kernels.selftest import wrong_kernels
from paceline.types.errors import EngineError

ROOT = Path(__file__).parents[2]
ISAS = ["avx512", "avx2", "portable"]
HEADS = [(9, 3, 64), (12, 12, 64), (4, 1, 256), (32, 8, 128), (32, 32, 96), (10, 2, 8)]
VIEWS = [(0, 0.0), (70, 0.0), (0, 5.0), (1, 0.0)]
"""(window, softcap)"""


def build(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(directory / "lib")]
    return subprocess.run(
        [*command, "--build-temp", str(directory / "temp")],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def built_in(directory: Path) -> Path:
    return directory / "lib" / "paceline" / "engine" / "kernels"


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library built from the sources as they are now."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if shutil.which(compiler.split()[0]) is None:
        pytest.skip(f"no C compiler ({compiler})")
    directory = tmp_path_factory.mktemp("kernels")
    done = build(directory)
    assert done.returncode == 0, done.stderr
    path = library.library_path(built_in(directory))
    assert path is not None, done.stderr
    return path


@pytest.fixture(scope="session", params=ISAS)
def kernels(request: pytest.FixtureRequest, fresh: Path) -> Kernels:
    try:
        return library.open_library(fresh, request.param)
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> None:
    if "kernels" in request.fixturenames:
        request.getfixturevalue("kernels").set_threads(1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Linear


SHAPES = [(576, 192), (576, 1536), (1536, 576), (83, 37), (1, 1), (16, 4), (2000, 70), (15, 129)]
"""(K, N)"""


@pytest.mark.parametrize(("depth", "columns"), SHAPES)
@pytest.mark.parametrize("rows", [1, 4, 7, 64])
def test_linear_is_right(kernels: Kernels, rows: int, depth: int, columns: int) -> None:
    x, w, bias = random(rows, depth), random(columns, depth, seed=1), random(columns, seed=2)
    exact = x.double() @ w.double().T
    error = (kernels.linear(x, w) - exact).abs().max() / depth**0.5
    assert error < 2e-6
    assert torch.equal(kernels.linear(x, w, bias), kernels.linear(x, w) + bias)


@pytest.mark.parametrize(("depth", "columns"), SHAPES)
def test_linear_gives_a_row_the_same_bits_in_any_company(
    kernels: Kernels, depth: int, columns: int
) -> None:
    x, w = random(33, depth), random(columns, depth, seed=1)
    alone = torch.cat([kernels.linear(row[None], w) for row in x])
    for threads in (1, 2):
        kernels.set_threads(threads)
        for rows in range(1, 34):
            assert torch.equal(kernels.linear(x[:rows], w), alone[:rows])
        order = torch.randperm(33, generator=torch.Generator().manual_seed(3))
        assert torch.equal(kernels.linear(x[order], w), alone[order])


def test_linear_over_a_vocabulary(kernels: Kernels) -> None:
    x, w = random(5, 576), random(49152, 576, seed=1)
    ours = kernels.linear(x, w)
    torch.testing.assert_close(ours, x @ w.T, rtol=1e-4, atol=1e-4)
    kernels.set_threads(2)
    assert torch.equal(kernels.linear(x[3:4], w), ours[3:4])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 70),
    depth=st.integers(1, 100),
    row=st.integers(0, 19),
)
def test_linear_of_any_shape(
    kernels: Kernels, rows: int, columns: int, depth: int, row: int
) -> None:
    x, w, row = random(rows, depth), random(columns, depth, seed=1), row % rows
    ours = kernels.linear(x, w)
    torch.testing.assert_close(ours.double(), x.double() @ w.double().T, rtol=1e-5, atol=2e-5)
    assert torch.equal(kernels.linear(x[row : row + 1], w), ours[row : row + 1])


def test_linear_of_no_rows(kernels: Kernels) -> None:
    assert kernels.linear(torch.empty(0, 8), random(3, 8)).shape == (0, 3)


# Attention


@dataclass(frozen=True)
class Sequences:
    """Sequences of `lengths` tokens, their pages strewn over a cache that is NaN elsewhere."""

    q: Tensor
    k: Tensor
    v: Tensor
    row_pos: Tensor
    row_table: Tensor
    tables: Tensor
    scale: float

    def rows(self, which: Tensor | slice) -> Sequences:
        return replace(
            self,
            q=self.q[which].contiguous(),
            row_pos=self.row_pos[which].contiguous(),
            row_table=self.row_table[which].contiguous(),
        )

    def attend(self, kernels: Kernels, window: int = 0, softcap: float = 0.0) -> Tensor:
        call = (self.q, self.k, self.v, self.row_pos, self.row_table, self.tables, self.scale)
        return kernels.attention(*call, window, softcap)


def sequences(lengths: list[int], heads: tuple[int, int, int], placement: int = 0) -> Sequences:
    """Every token of every sequence as a row; `placement` seeds where the pages stand."""
    n_heads, kv_heads, head_dim = heads
    spans = [-(-length // 64) for length in lengths]
    generator = torch.Generator().manual_seed(placement)
    ids = torch.randperm(sum(spans) + 2, generator=generator)[: sum(spans)].split(spans)
    k, v = (torch.full((sum(spans) + 2, kv_heads, 64, head_dim), torch.nan) for _ in range(2))
    tables = torch.full((len(lengths), max(spans) + 1), -1, dtype=torch.int32)
    for i, (length, pages) in enumerate(zip(lengths, ids, strict=True)):
        tables[i, : len(pages)] = pages
        for cache, seed in ((k, 1), (v, 2)):
            held = random(kv_heads, length, head_dim, seed=10 * i + seed)
            for n, page in enumerate(pages):
                part = held[:, 64 * n : 64 * n + 64]
                cache[page, :, : part.shape[1]] = part
    return Sequences(
        q=random(sum(lengths), n_heads, head_dim),
        k=k,
        v=v,
        row_pos=torch.cat([torch.arange(length) for length in lengths]),
        row_table=torch.repeat_interleave(
            torch.arange(len(lengths), dtype=torch.int32), torch.tensor(lengths)
        ),
        tables=tables,
        scale=head_dim**-0.5,
    )


def exact_attention(s: Sequences, window: int, softcap: float) -> Tensor:
    group = s.q.shape[1] // s.k.shape[1]
    out = []
    for q, position, table in zip(s.q.double(), s.row_pos.tolist(), s.row_table, strict=True):
        pages = s.tables[table, : position // 64 + 1].long()
        first = max(0, position - window + 1) if window else 0
        k, v = (
            t[pages].transpose(0, 1).flatten(1, 2)[:, first : position + 1].double()
            for t in (s.k, s.v)
        )
        scores = torch.einsum("hd,hkd->hk", q, k.repeat_interleave(group, 0)) * s.scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        weights = scores.softmax(-1)
        out.append(torch.einsum("hk,hkd->hd", weights, v.repeat_interleave(group, 0)).flatten())
    return torch.stack(out)


@pytest.mark.parametrize(("window", "softcap"), VIEWS)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_attention_is_right(
    kernels: Kernels, heads: tuple[int, int, int], window: int, softcap: float
) -> None:
    s = sequences([150, 3], heads).rows(
        torch.cat([torch.arange(0, 150, 7), torch.arange(145, 153)])
    )
    exact = exact_attention(s, window, softcap)
    torch.testing.assert_close(
        s.attend(kernels, window, softcap).double(), exact, rtol=1e-5, atol=3e-6
    )


@pytest.mark.parametrize(("window", "softcap"), VIEWS)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_attention_gives_a_row_the_same_bits_in_any_company(
    kernels: Kernels, heads: tuple[int, int, int], window: int, softcap: float
) -> None:
    lengths = [135, 64, 5]
    s = sequences(lengths, heads)
    rows = len(s.q)

    def attend(s: Sequences) -> Tensor:
        return s.attend(kernels, window, softcap)

    whole = attend(s)
    assert whole.isfinite().all()
    one_by_one = torch.cat([attend(s.rows(slice(i, i + 1))) for i in range(rows)])
    chunks = torch.cat([attend(s.rows(slice(i, i + 33))) for i in range(0, rows, 33)])
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(3))
    elsewhere = replace(sequences(lengths, heads, placement=1), q=s.q)
    assert torch.equal(one_by_one, whole)
    assert torch.equal(chunks, whole)
    assert torch.equal(attend(s.rows(order)), whole[order])
    assert torch.equal(attend(elsewhere), whole)
    kernels.set_threads(2)
    assert torch.equal(attend(s), whole)


@pytest.mark.parametrize("window", [0, 300])
def test_a_long_sequence_shared_out_by_pages_has_the_same_bits(
    kernels: Kernels, window: int
) -> None:
    s = sequences([700], (9, 3, 64)).rows(slice(697, 700))
    alone = s.attend(kernels, window)
    torch.testing.assert_close(
        alone.double(), exact_attention(s, window, 0.0), rtol=1e-5, atol=3e-6
    )
    for threads in (2, 3):
        kernels.set_threads(threads)
        assert torch.equal(s.attend(kernels, window), alone)
        for i in range(3):
            row = slice(i, i + 1)
            assert torch.equal(s.rows(row).attend(kernels, window), alone[row])


def test_a_page_between_two_views_is_not_touched(kernels: Kernels) -> None:
    s = sequences([400], (4, 2, 16)).rows(torch.tensor([3, 390]))
    expected = s.attend(kernels, window=20)
    s.tables[0, 2:5] = 2**31 - 1
    for threads in (1, 2):
        kernels.set_threads(threads)
        assert torch.equal(s.attend(kernels, window=20), expected)


def test_attention_does_not_hide_a_nan(kernels: Kernels) -> None:
    s = sequences([20], (2, 1, 16))
    s.k[s.tables[0, 0], 0, 10, 3] = torch.nan
    sees = s.row_pos >= 10
    assert s.attend(kernels)[sees].isnan().all()
    assert s.attend(kernels)[~sees].isfinite().all()


def test_attention_of_large_scores(kernels: Kernels) -> None:
    s = replace(sequences([100], (2, 1, 16)), scale=40.0)
    torch.testing.assert_close(
        s.attend(kernels).double(), exact_attention(s, 0, 0.0), rtol=1e-3, atol=1e-3
    )


def test_attention_of_no_rows(kernels: Kernels) -> None:
    s = sequences([20], (2, 1, 16)).rows(slice(0, 0))
    assert s.attend(kernels).shape == (0, 32)


# Elementwise


@pytest.mark.parametrize("width", [1, 7, 64, 576, 1531])
def test_rms_norm(kernels: Kernels, width: int) -> None:
    x, weight = random(40, width) * 3, random(width, seed=1)
    exact = torch.nn.functional.rms_norm(x.double(), (width,), weight.double(), 1e-5)
    ours = kernels.rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(ours.double(), exact, rtol=2e-6, atol=1e-7)
    kernels.set_threads(2)
    for rows in (1, 3, 40):
        assert torch.equal(kernels.rms_norm(x[-rows:], weight, 1e-5), ours[-rows:])


@pytest.mark.parametrize("width", [1, 7, 64, 1531])
def test_silu_mul(kernels: Kernels, width: int) -> None:
    gate, up = random(40, width) * 20, random(40, width, seed=1)
    ours = kernels.silu_mul(gate, up)
    exact = torch.nn.functional.silu(gate.double()) * up.double()
    torch.testing.assert_close(ours.double(), exact, rtol=4e-7, atol=1e-30)
    kernels.set_threads(2)
    for rows in (1, 3, 40):
        assert torch.equal(kernels.silu_mul(gate[-rows:], up[-rows:]), ours[-rows:])


def test_silu_at_the_ends(kernels: Kernels) -> None:
    gate = torch.tensor([[-torch.inf, -200.0, -88.5, 0.0, 88.5, 200.0, torch.inf, torch.nan]])
    ours = kernels.silu_mul(gate, torch.ones_like(gate))
    assert ours[0, 3:7].tolist() == [0.0, 88.5, 200.0, torch.inf]
    assert ours[0, 1:3].abs().max() < 1e-35
    assert ours[0, [0, 7]].isnan().all()  # silu(-inf) is -inf / inf in torch too


# What does not fit


def test_arguments_that_do_not_fit(kernels: Kernels) -> None:
    x, w = random(2, 8), random(4, 8)
    wrong: list[Callable[[], object]] = [
        lambda: kernels.linear(x.double(), w),
        lambda: kernels.linear(x, w[:, :7].contiguous()),
        lambda: kernels.linear(x, random(8, 4).T),
        lambda: kernels.linear(x[0], w),
        lambda: kernels.linear(x, w, random(3)),
        lambda: kernels.linear(x.to("meta"), w),
        lambda: kernels.linear(torch.empty(2, 0), torch.empty(4, 0)),
        lambda: kernels.rms_norm(x, random(7), 1e-5),
        lambda: kernels.silu_mul(x, random(8, 2)),
    ]
    for call in wrong:
        with pytest.raises(EngineError, match="a kernel was given"):
            call()


ATTENTION_FAULTS: dict[str, Callable[[Sequences], Sequences]] = {
    "position": lambda s: replace(s, row_pos=s.row_pos - 1),
    "beyond its page table": lambda s: replace(s, row_pos=s.row_pos + 192),
    "row_table": lambda s: replace(s, row_table=s.row_table + 1),
    "row_table names": lambda s: replace(s, row_table=s.row_table - 1),
    "page that the cache": lambda s: replace(s, tables=s.tables + len(s.k)),
    "page that the cache does": lambda s: replace(s, tables=-s.tables - 1),
    "given row_pos": lambda s: replace(s, row_pos=s.row_pos.int()),
    "given tables": lambda s: replace(s, tables=s.tables.long()),
    "given k": lambda s: replace(s, k=s.k.half()),
    "one entry for each row": lambda s: replace(s, row_pos=s.row_pos[1:].clone()),
    "k and v are": lambda s: replace(s, v=s.v[1:].clone()),
    "32, head_dim|k and v are": lambda s: replace(
        s, k=s.k[:, :, :32].contiguous(), v=s.v[:, :, :32].contiguous()
    ),
    "does not handle": lambda s: replace(s, q=s.q[:, :3].contiguous()),
}


@pytest.mark.parametrize("message", ATTENTION_FAULTS)
def test_attention_refuses_what_would_read_out_of_bounds(kernels: Kernels, message: str) -> None:
    s = sequences([70], (4, 2, 16))
    with pytest.raises(EngineError, match=message):
        ATTENTION_FAULTS[message](s).attend(kernels)
    assert s.attend(kernels).isfinite().all()


def test_attention_refuses_a_negative_window(kernels: Kernels) -> None:
    with pytest.raises(EngineError, match="window"):
        sequences([3], (2, 1, 16)).attend(kernels, window=-1)


def test_supported_head_shapes(kernels: Kernels) -> None:
    assert all(kernels.supports(*heads) for heads in HEADS)
    for heads in [(9, 2, 64), (4, 4, 12), (4, 4, 264), (130, 2, 64), (0, 0, 64)]:
        assert not kernels.supports(*heads)


# Threads


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_a_thread_count_that_makes_no_sense(kernels: Kernels, threads: int) -> None:
    with pytest.raises(EngineError, match="1 to 256"):
        kernels.set_threads(threads)


def test_more_threads_than_work_or_processors(kernels: Kernels) -> None:
    x, w = random(1, 576), random(300, 576, seed=1)
    alone = kernels.linear(x, w)
    for threads in (8, 3, 1, 2):
        kernels.set_threads(threads)
        assert kernels.threads == threads
        for _ in range(50):
            assert torch.equal(kernels.linear(x, w), alone)


def test_callers_on_several_threads_take_turns(kernels: Kernels) -> None:
    kernels.set_threads(2)
    w = random(192, 576, seed=1)
    inputs = [random(3, 576, seed=seed) for seed in range(4)]
    expected = [kernels.linear(x, w) for x in inputs]
    right: list[bool] = []

    def call(i: int) -> None:
        same = [torch.equal(kernels.linear(inputs[i], w), expected[i]) for _ in range(50)]
        right.append(all(same))

    callers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert right == [True] * 4


def thread_states() -> dict[int, str]:
    """The state letter of each of this process's threads."""
    stats = Path("/proc/self/task").glob("*/stat")
    return {int(s.parent.name): s.read_text().rpartition(")")[2].split()[0] for s in stats}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_idle_workers_sleep_and_leave(kernels: Kernels) -> None:
    before = set(thread_states())
    kernels.set_threads(3)
    kernels.linear(random(4, 576), random(1536, 576))
    workers = set(thread_states()) - before
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(thread_states()[worker] != "S" for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    kernels.set_threads(1)
    assert not workers & set(thread_states())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_its_own_workers(kernels: Kernels) -> None:
    kernels.set_threads(2)
    x, w = random(1, 576), random(300, 576, seed=1)
    expected = kernels.linear(x, w).tolist()
    child = os.fork()
    if child == 0:
        os._exit(0 if kernels.linear(x, w).tolist() == expected else 1)
    deadline = time.monotonic() + 30
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, 9)
        time.sleep(0.005)
    assert ended[1] == 0


# Building and loading


def test_the_name_says_which_bits_to_expect(fresh: Path, kernels: Kernels) -> None:
    build_name = library.open_library(fresh, "portable").name.removesuffix("-portable")
    assert build_name.startswith("kernels-1-")
    assert kernels.name == f"{build_name}-{kernels.isa}"


def test_without_a_compiler_the_build_goes_on_and_says_so(tmp_path: Path) -> None:
    done = build(tmp_path, CC="/nonexistent/cc", LDSHARED="/nonexistent/cc")
    assert done.returncode == 0, done.stderr
    assert "the C kernels are left out" in done.stdout + done.stderr
    assert library.library_path(built_in(tmp_path)) is None


def load_with_log(directory: Path) -> tuple[Kernels | None, str]:
    with structlog.testing.capture_logs() as logs:
        kernels = load(directory)
    return kernels, " ".join(str(entry.get("reason")) for entry in logs)


def test_load_without_a_library(tmp_path: Path) -> None:
    kernels, reason = load_with_log(tmp_path)
    assert kernels is None
    assert "not built" in reason


def test_load_of_a_file_that_is_no_library(tmp_path: Path, fresh: Path) -> None:
    (tmp_path / fresh.name).write_bytes(b"\x7fELF and nothing more")
    kernels, reason = load_with_log(tmp_path)
    assert kernels is None
    assert "cannot be loaded" in reason


def test_load_of_a_library(tmp_path: Path, fresh: Path) -> None:
    shutil.copy(fresh, tmp_path)
    kernels, reason = load_with_log(tmp_path)
    assert kernels is not None
    assert reason == ""
    assert kernels is load(tmp_path)
    assert kernels.threads == torch.get_num_threads()
    kernels.set_threads(1)


@pytest.mark.parametrize(("isa", "reason"), [("avx1024", "no such"), ("avx512", "this CPU lacks")])
def test_an_instruction_set_that_cannot_be_had(
    tmp_path: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch, isa: str, reason: str
) -> None:
    shutil.copy(fresh, tmp_path)
    if isa in calls.ISA_NUMBERS:
        missing = ctypes.CDLL(str(fresh))
        number = calls.ISA_NUMBERS[isa]
        monkeypatch.setattr(missing, "paceline_has_isa", lambda n: n != number)
        monkeypatch.setattr(library.ctypes, "CDLL", lambda path: missing)
    monkeypatch.setenv("PACELINE_KERNEL_ISA", isa)
    with pytest.raises(EngineError, match=f"{reason}.*choose one of"):
        load(tmp_path)


def test_an_instruction_set_of_choice(
    tmp_path: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(fresh, tmp_path)
    monkeypatch.setenv("PACELINE_KERNEL_ISA", "portable")
    kernels = load(tmp_path)
    assert kernels is not None
    assert kernels.isa == "portable"
    kernels.set_threads(1)


@pytest.mark.parametrize("wrong", ["linear", "attention"])
def test_a_library_that_computes_wrongly_is_not_used(
    tmp_path: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    shutil.copy(fresh, tmp_path)
    right = getattr(Kernels, wrong)
    monkeypatch.setattr(Kernels, wrong, lambda *arguments: right(*arguments) * 1.001)
    kernels, reason = load_with_log(tmp_path)
    assert kernels is None
    assert wrong in reason


def test_the_self_test_passes(kernels: Kernels) -> None:
    assert wrong_kernels(kernels) == []
