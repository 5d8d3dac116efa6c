"""Prints docs/lifecycle.md."""

from __future__ import annotations

from paceline.lifecycle.describe import describe

print(describe(), end="")
