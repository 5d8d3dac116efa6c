"""Sizes as people write and read them."""

from __future__ import annotations

import re

from paceline.types.errors import InvalidRequest

MIB = 1024**2
GIB = 1024**3

_UNITS: dict[str, float] = {
    "": 1, "b": 1,
    "k": 2**10, "kb": 10**3, "kib": 2**10,
    "m": 2**20, "mb": 10**6, "mib": 2**20,
    "g": 2**30, "gb": 10**9, "gib": 2**30,
    "t": 2**40, "tb": 10**12, "tib": 2**40,
}  # fmt: skip
_RATES = {f"{unit}/s": count for unit, count in _UNITS.items() if unit} | {
    "kbit/s": 10**3 / 8,
    "mbit/s": 10**6 / 8,
    "gbit/s": 10**9 / 8,
}


def parse_bytes(text: str) -> int:
    """`2GiB`, `700 MiB`, `1.5GB` or plain bytes. Raises InvalidRequest."""
    count = _parsed(text, _UNITS)
    if count is None:
        raise InvalidRequest(f"{text!r} is no size; write it as in 2GiB or 700MiB")
    return int(count)


def parse_rate(text: str) -> float:
    """`20 GB/s`, `1Gbit/s`: more than 0, in bytes per second. Raises InvalidRequest."""
    count = _parsed(text, _RATES)
    if not count:
        raise InvalidRequest(f"{text!r} is no speed; write it as in 20GB/s or 1Gbit/s")
    return count


def _parsed(text: str, units: dict[str, float]) -> float | None:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z/]*)\s*", text)
    unit = units.get(found[2].lower()) if found else None
    return None if found is None or unit is None else float(found[1]) * unit


def human_bytes(count: float) -> str:
    """`1.9 GiB`, `700 MiB`: for sentences."""
    if count >= GIB:
        return f"{count / GIB:.1f} GiB"
    return f"{count / MIB:.0f} MiB"


def human_share(part: float, whole: float) -> str:
    """`1.2 GiB free of 4.0`: the unit once, where both have the same."""
    a, b = human_bytes(part), human_bytes(whole)
    number, _, unit = b.partition(" ")
    return f"{a} free of {number if a.endswith(unit) else b}"
