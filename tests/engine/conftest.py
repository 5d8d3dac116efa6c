from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from transformers import PreTrainedModel

from paceline.engine import kernels as built_kernels
from paceline.engine.kernels import Kernels, library
from paceline.types.errors import EngineError
from tests.engine.kernel_builds import ISAS, build, built_in
from tests.engine.tiny import make

OPS = ["reference", "c"] if built_kernels.load() else ["reference"]
DTYPES = ["float32", "int8"]


class Tiny(NamedTuple):
    path: Path
    model: PreTrainedModel


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """Checkpoints of `tests.engine.tiny` by case, each made once."""
    made: dict[str, Tiny] = {}

    def get(case: str) -> Tiny:
        if case not in made:
            path = tmp_path_factory.mktemp(case)
            made[case] = Tiny(path, make(case, path))
        return made[case]

    return get


@pytest.fixture(params=OPS)
def ops(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


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


@pytest.fixture(scope="session")
def all_kernels(fresh: Path) -> dict[str, Kernels]:
    """One library for each instruction set that this CPU has, from the fastest on. Kernels for many
    rows do all: those for few are another set's."""
    found = {}
    for isa in ISAS:
        try:
            found[isa] = library.open_library(fresh, isa)
        except EngineError:
            continue
        found[isa].set_many_rows(1)
    return found


@pytest.fixture(params=ISAS)
def kernels(request: pytest.FixtureRequest, all_kernels: dict[str, Kernels]) -> Kernels:
    if request.param not in all_kernels:
        pytest.skip(f"this CPU lacks {request.param}")
    found = all_kernels[request.param]
    found.set_threads(1)
    return found


@pytest.fixture(scope="session")
def portable(all_kernels: dict[str, Kernels]) -> Kernels:
    """What the others' bits are compared with; it shares their threads."""
    return all_kernels["portable"]


def _set_threads(count: int) -> None:
    torch.set_num_threads(count)
    if built := built_kernels.load():
        built.set_threads(count)


@pytest.fixture(autouse=True)
def use_threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads torch and the kernels use; every test starts with one."""
    before = torch.get_num_threads()
    _set_threads(1)
    yield _set_threads
    _set_threads(before)
