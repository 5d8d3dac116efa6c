"""The processes of a parent, as it starts them and as it tells of them."""

from __future__ import annotations

import msgspec


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A child that the parent keeps alive."""

    role: str
    """controller, gateway, node or ray"""
    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    """Added to ours."""
    kernel_kills: bool = True
    """False for one that has children of its own to end when its parent is gone."""


class SiblingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One of the parent's children."""

    role: str
    name: str
    pid: int | None
    """None while it is down."""
    restarts: int
    last_end: str
    """How it ended the last time; empty if it never did."""


class UpStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The parent's view of the cluster, for people."""

    url: str
    ready: bool
    """The gateway has answered, and `run.json` says where."""
    stopping: bool
    siblings: tuple[SiblingStatus, ...]
