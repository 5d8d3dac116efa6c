from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from transformers import PreTrainedModel

from paceline.engine import kernels
from tests.engine.tiny import make

OPS = ["reference", "c"] if kernels.load() else ["reference"]


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


def _set_threads(count: int) -> None:
    torch.set_num_threads(count)
    if built := kernels.load():
        built.set_threads(count)


@pytest.fixture(autouse=True)
def use_threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads torch and the kernels use; every test starts with one."""
    before = torch.get_num_threads()
    _set_threads(1)
    yield _set_threads
    _set_threads(before)
