"""How a machine asks to become a node, and what it is told."""

from __future__ import annotations

import msgspec

from paceline.types.control import PROTOCOL
from paceline.types.ids import NodeName
from paceline.types.timing import Timing

JOIN = "join"
"""The verb of a `JoinRequest`."""


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """Of what must agree on every machine."""

    paceline: str
    python: str
    ray: str | None = None
    """None where Ray is not installed."""
    protocol: int = PROTOCOL
    """Of the control path."""


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of the verb. What a later release adds is passed over, so that it can be told
    which release this one is."""

    node: NodeName
    versions: Versions
    origin: str = ""
    """Address and home: who asks again from there may have the name that was just given away."""


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a new node needs."""

    cluster_id: str
    timing: Timing
    versions: Versions
    ray_address: str | None = None
    """HOST:PORT of the Ray head; None: the cluster does without."""
    api_key: str | None = None
    """What gateways of this cluster ask of their clients; None: nothing."""


class House(msgspec.Struct, frozen=True, kw_only=True):
    """What the controller's process knows and tells joiners."""

    versions: Versions
    ray_address: str | None = None
    api_key: str | None = None


def told(versions: Versions) -> str:
    """As a person reads it."""
    ray = f", Ray {versions.ray}" if versions.ray else ""
    return f"Paceline {versions.paceline}, Python {versions.python}{ray}"


def python_minor(version: str) -> str:
    """3.11 of 3.11.7: pickles and wheels hold within one."""
    return ".".join(version.split(".")[:2])


def differences(here: Versions, there: Versions) -> tuple[str, ...]:
    """What keeps `there` from being a node of `here`, each naming both versions."""
    rows = (
        ("Paceline", here.paceline, there.paceline),
        ("Python", python_minor(here.python), python_minor(there.python)),
        ("Ray", here.ray or "none", there.ray or "none"),
        ("control protocol", str(here.protocol), str(there.protocol)),
    )
    return tuple(
        f"{name} {theirs} there, {ours} at the head"
        for name, ours, theirs in rows
        if ours != theirs
    )
