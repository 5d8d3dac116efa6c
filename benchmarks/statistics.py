"""Figures out of repeated measurements."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

T = TypeVar("T")


class Figure(msgspec.Struct, frozen=True):
    """A median and what the rounds spread over."""

    median: float
    low: float
    high: float
    rounds: int


def figure(values: Sequence[float]) -> Figure:
    return Figure(statistics.median(values), min(values), max(values), len(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """Of rounds that were measured side by side."""
    return figure([a / b for a, b in zip(ours, theirs, strict=True)])


def interleaved(
    rounds: int, jobs: Mapping[str, Callable[[], T]], failure: type[Exception]
) -> tuple[dict[str, list[T]], dict[str, str]]:
    """Every job once per round, in turn, and the other way round in every other one, so that none
    always comes behind the same other. A job that fails is not tried again: (results of those that
    never failed, by name; reasons of the others)."""
    results: dict[str, list[T]] = {name: [] for name in jobs}
    failed: dict[str, str] = {}
    for turn in range(rounds):
        for name in reversed(jobs) if turn % 2 else jobs:
            if name in failed:
                continue
            try:
                results[name].append(jobs[name]())
            except failure as error:
                failed[name] = str(error)
    return {name: found for name, found in results.items() if name not in failed}, failed
