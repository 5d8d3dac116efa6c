"""Measures a server from where its clients are: over HTTP, streaming, as many at once as asked."""

from paceline.bench.levels import Level, Round, level_of, quantile
from paceline.bench.load import Load, check, measure
from paceline.bench.prompts import prompts
from paceline.bench.streaming import Target, Timeline, stream

__all__ = [
    "Level",
    "Load",
    "Round",
    "Target",
    "Timeline",
    "check",
    "level_of",
    "measure",
    "prompts",
    "quantile",
    "stream",
]
