"""The children that every cluster has, as commands."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from paceline.cluster.parent.status import Command
from paceline.process.exposure import API_KEY_VARIABLE
from paceline.process.memory import MachineMemory
from paceline.types.policy import Tier
from paceline.types.timing import Timing

HEADROOM_BYTES = 2**30
"""Left to the controller, the gateway, the agents and the rest of the machine."""

Program = tuple[str, ...]
Words = dict[str, object]
"""Options and their values; those that are None are left out."""


class NodeShare(msgspec.Struct, frozen=True):
    """What each node has of the machine."""

    memory_bytes: int
    threads: int


def module(name: str) -> Program:
    """How a process of the cluster is started; options are appended."""
    return (sys.executable, "-m", name)


def argv(program: Sequence[str], words: Mapping[str, object]) -> tuple[str, ...]:
    given = (pair for pair in words.items() if pair[1] is not None)
    return (*program, *(str(word) for pair in given for word in pair))


def common_words(home: Path, runtime: Path, cluster_id: str, timing: Timing) -> Words:
    """What every child is told."""
    return {
        "--home": home,
        "--runtime": runtime,
        "--cluster-id": cluster_id,
        "--timing": msgspec.json.encode(timing).decode(),
    }


def controller(
    program: Program, common: Words, tiers: Sequence[Tier], api_key: str | None, **more: object
) -> Command:
    """`more`: further options, without their dashes."""
    words = common | {"--tiers": msgspec.json.encode(tiers).decode()} | _dashed(more)
    return Command(
        role="controller", name="controller", argv=argv(program, words), env=_key(api_key)
    )


def gateway(
    program: Program, common: Words, host: str, port: int, api_key: str | None, **more: object
) -> Command:
    words = common | {"--host": host, "--port": port} | _dashed(more)
    return Command(role="gateway", name="gateway", argv=argv(program, words), env=_key(api_key))


def node_share(nodes: int, given: int | None, memory: MachineMemory, cpus: int) -> NodeShare:
    """An equal share for each of `nodes`, with headroom kept unless the memory was given."""
    headroom = min(HEADROOM_BYTES, memory.available // 4)
    share = max(0, memory.available - headroom) // nodes
    return NodeShare(
        memory_bytes=given if given is not None else share, threads=max(1, cpus // nodes)
    )


def _key(api_key: str | None) -> dict[str, str]:
    """Also when there is none: a key in our environment is for a cluster that we talk to."""
    return {API_KEY_VARIABLE: api_key or ""}


def _dashed(more: Mapping[str, object]) -> Words:
    return {f"--{name.replace('_', '-')}": value for name, value in more.items()}
