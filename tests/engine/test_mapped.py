from __future__ import annotations

import mmap

import pytest

from paceline.engine.mapped import mapped


def test_it_is_zeros_that_may_be_written():
    memory = mapped(3 * mmap.PAGESIZE)
    assert memory[:] == bytes(3 * mmap.PAGESIZE)
    memory[-1] = 1


def test_a_kernel_without_large_pages_gives_small_ones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 9999, raising=False)
    assert mapped(mmap.PAGESIZE)[:] == bytes(mmap.PAGESIZE)
