"""For all tests."""

from __future__ import annotations

from hypothesis import settings

# `make test` asks the same of every change; `make proof` explores.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
