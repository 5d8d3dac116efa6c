"""Sizes as people write them."""

from __future__ import annotations

import typer

from paceline.planner import parse_bytes as parsed
from paceline.types.errors import InvalidRequest


def parse_bytes(text: str) -> int:
    """`2GiB`, `700 MiB`, `1.5GB` or plain bytes. Raises typer.BadParameter."""
    try:
        return parsed(text)
    except InvalidRequest as error:
        raise typer.BadParameter(str(error)) from error
