from __future__ import annotations

import ctypes
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from paceline.engine.int4 import Codes
from paceline.engine.kernels import Kernels, abi, library, load
from paceline.engine.kernels.selftest import wrong_kernels
from paceline.types.errors import EngineError
from tests.engine.kernel_builds import build, built_in, random

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


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
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
        lambda: kernels.norm("rms", x, random(7), None, 1e-5),
        lambda: kernels.norm("layer", x, random(8), random(7), 1e-5),
        lambda: kernels.activate("silu", True, random(2, 7)),
        lambda: kernels.activate("silu", False, x.half()),
    ]
    for call in wrong:
        with pytest.raises(EngineError, match="a kernel was given"):
            call()


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
    assert build_name.startswith("kernels-2-")
    assert kernels.build == build_name
    assert kernels.name == f"{build_name}-{abi.FLOAT_ISAS.get(kernels.isa, kernels.isa)}"


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
    if isa in abi.ISA_NUMBERS:
        missing = ctypes.CDLL(str(fresh))
        number = abi.ISA_NUMBERS[isa]
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


@pytest.mark.parametrize("wrong", ["linear", "quantised_linear", "attention"])
def test_a_library_that_computes_wrongly_is_not_used(
    tmp_path: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    shutil.copy(fresh, tmp_path)
    right = getattr(Kernels, wrong)
    monkeypatch.setattr(Kernels, wrong, lambda *arguments: right(*arguments) * 1.001)
    kernels, reason = load_with_log(tmp_path)
    assert kernels is None
    assert wrong.replace("_", " ") in reason


def test_a_library_that_encodes_wrongly_is_not_used(
    tmp_path: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(fresh, tmp_path)
    right = Kernels.encode

    def wrong(kernels: Kernels, weights: Tensor) -> Codes:
        found = right(kernels, weights)
        found.codes[20, 191] ^= 1
        return found

    monkeypatch.setattr(Kernels, "encode", wrong)
    kernels, reason = load_with_log(tmp_path)
    assert kernels is None
    assert "encode" in reason


def test_the_self_test_passes(kernels: Kernels) -> None:
    assert wrong_kernels(kernels) == []
