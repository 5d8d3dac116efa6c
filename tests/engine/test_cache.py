"""Quantised weights on disk: read when they are right, made anew when not, and never in the way."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest
import torch

from paceline.checkpoint.manifest import CACHE_NAME, describe, write_manifest
from paceline.engine import cache as cache_module
from paceline.engine import forms
from paceline.engine.cache import UnitCache
from paceline.engine.stage import Stage
from paceline.types.model import Shard
from paceline.types.step import Span
from tests.engine.tiny import LAYERS, make

WHOLE = Shard(start=0, stop=LAYERS, layers=LAYERS)
MEMORY = torch.arange(1000, dtype=torch.int32).view(torch.uint8)


def _read(cache: UnitCache, unit: str = "layer-0") -> bool:
    memory = torch.zeros_like(MEMORY)
    return cache.read(unit, memory) and torch.equal(memory, MEMORY)


@pytest.fixture
def cache(tmp_path: Path) -> UnitCache:
    cache = UnitCache(tmp_path, "digest")
    cache.write("layer-0", MEMORY)
    return cache


def _files(path: Path) -> list[str]:
    return sorted(one.name for one in (path / CACHE_NAME).iterdir())


def test_what_was_written_is_read(cache: UnitCache, tmp_path: Path) -> None:
    assert _read(cache)
    assert _files(tmp_path) == ["layer-0"]
    assert not _read(cache, "layer-1")


def test_what_was_made_of_something_else_is_not_read(
    cache: UnitCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not _read(UnitCache(tmp_path, "other"))
    shutil.copy(tmp_path / CACHE_NAME / "layer-0", tmp_path / CACHE_NAME / "layer-1")
    assert not _read(cache, "layer-1")
    assert not cache.read("layer-0", MEMORY[:-4].clone())
    assert not cache.read("layer-0", torch.cat((MEMORY, MEMORY)))
    monkeypatch.setattr(cache_module, "PACKING", 10**6)
    assert not _read(cache)
    cache.write("layer-0", MEMORY)
    assert _read(cache)


@pytest.mark.parametrize("at", [0, 20, 4096, -1])
def test_a_damaged_file_is_not_read_and_written_anew(
    cache: UnitCache, tmp_path: Path, at: int
) -> None:
    path = tmp_path / CACHE_NAME / "layer-0"
    good = path.read_bytes()
    damaged = bytearray(good)
    damaged[at] ^= 1
    for content in (damaged, good[:-1], good[:100], b"", good + b"\0"):
        path.write_bytes(content)
        assert not _read(cache)
    cache.write("layer-0", MEMORY)
    assert _read(cache)


def test_a_dead_writers_file_is_written_over_and_a_living_ones_is_left(
    cache: UnitCache, tmp_path: Path
) -> None:
    dead = (tmp_path / CACHE_NAME / "layer-1.new").open("wb", buffering=0)
    fcntl.flock(dead, fcntl.LOCK_EX)
    dead.write(b"half")
    cache.write("layer-1", MEMORY)
    assert _files(tmp_path) == ["layer-0", "layer-1.new"]
    dead.close()
    cache.write("layer-1", MEMORY)
    assert _files(tmp_path) == ["layer-0", "layer-1"]
    assert _read(cache, "layer-1")


def test_a_nearly_full_disk_gets_nothing(
    cache: UnitCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(cache_module, "SPARE_BYTES", 2 * free)
    cache.write("layer-1", MEMORY)
    assert _files(tmp_path) == ["layer-0"]


def test_a_disk_that_fails_costs_only_the_cache(
    cache: UnitCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(cache_module, "_write_all", fail)
    cache.write("layer-1", MEMORY)
    assert _files(tmp_path) == ["layer-0"]
    (tmp_path / "file").touch()
    UnitCache(tmp_path / "file", "digest").write("layer-0", MEMORY)
    UnitCache(tmp_path / "none", "digest").write("layer-0", MEMORY)


def _logits(path: Path, dtype: str = "int8") -> torch.Tensor:
    stage = Stage.load(path, WHOLE, kv_pages=1, dtype=dtype)
    return stage.forward([Span(0, 0, 3, (0,), True)], torch.tensor([3, 1, 4]))


@pytest.mark.parametrize("case", ["llama", "llama_tied", "gpt2"])
def test_a_stage_of_the_store_is_loaded_from_its_cache(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(case, tmp_path)
    fresh = _logits(tmp_path)
    assert not (tmp_path / CACHE_NAME).exists()
    write_manifest(tmp_path, describe(tmp_path, "tiny", "here"))
    assert torch.equal(_logits(tmp_path), fresh)
    units = {"embed", *(f"layer-{i}" for i in range(LAYERS))}
    assert set(_files(tmp_path)) in (units, units | {"head"})

    (tmp_path / CACHE_NAME / "layer-2").write_bytes(b"damaged")
    assert torch.equal(_logits(tmp_path), fresh)
    quantised = []
    monkeypatch.setattr(forms, "quantise", lambda *made: quantised.append(made))
    assert torch.equal(_logits(tmp_path), fresh)
    assert quantised == []


def test_int4_has_units_of_its_own_and_shares_the_tables(tmp_path: Path) -> None:
    make("llama_int4", tmp_path)
    write_manifest(tmp_path, describe(tmp_path, "tiny", "here"))
    fresh = {dtype: _logits(tmp_path, dtype) for dtype in ("int8", "int4")}
    layers = {f"layer-{i}{kind}" for i in range(LAYERS) for kind in ("", ".int4")}
    assert set(_files(tmp_path)) == {"embed", "head"} | layers
    assert not torch.equal(fresh["int8"], fresh["int4"])
    assert all(torch.equal(_logits(tmp_path, dtype), fresh[dtype]) for dtype in fresh)
