"""Who a node is, as its agent is told on the command line."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

import msgspec

from paceline.types.ids import NodeName
from paceline.types.timing import DEFAULT_TIMING, Timing, read_timing


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    home: Path
    runtime: Path
    cluster_id: str
    node: NodeName
    incarnation: str
    memory_bytes: int
    threads: int
    blanks: int
    timing: Timing
    host: str | None
    """Where the node's peers reach it; None where all of them are on this machine."""
    control: str | None
    """The controller's address, where it is elsewhere."""
    store: Path
    """The home of its checkpoints."""


def node_parser(program: str, description: str) -> argparse.ArgumentParser:
    """For the options that every agent has."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--runtime", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="the home of its checkpoints, if not --home")
    parser.add_argument("--cluster-id", required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--memory", type=int, required=True, help="bytes offered to runners")
    parser.add_argument("--blanks", type=int, default=1, help="runners kept ready without a seat")
    parser.add_argument("--timing", type=read_timing, default=DEFAULT_TIMING, help="JSON")
    parser.add_argument("--threads", type=int, default=1, help="of each runner")
    parser.add_argument("--host", help="address of this machine for the other nodes")
    parser.add_argument("--control", help="the controller's address, where it is elsewhere")
    return parser


def node_settings(given: argparse.Namespace) -> NodeSettings:
    """Of a fresh incarnation."""
    return NodeSettings(
        home=given.home,
        runtime=given.runtime,
        cluster_id=given.cluster_id,
        node=given.node,
        incarnation=secrets.token_hex(4),
        memory_bytes=given.memory,
        threads=given.threads,
        blanks=given.blanks,
        timing=given.timing,
        host=given.host,
        control=given.control,
        store=given.store or given.home,
    )


def runner_words(settings: NodeSettings, runner_id: str) -> tuple[str, ...]:
    """What a runner of this node is told on its command line."""
    options = {
        "--home": settings.home,
        "--store": settings.store,
        "--runtime": settings.runtime,
        "--cluster-id": settings.cluster_id,
        "--node": settings.node,
        "--incarnation": settings.incarnation,
        "--runner-id": runner_id,
        "--threads": settings.threads,
        "--beat": settings.timing.beat_s,
        "--grace": settings.timing.task_grace_s,
        "--host": settings.host,
        "--control": settings.control,
    }
    given = (pair for pair in options.items() if pair[1] is not None)
    return tuple(str(word) for pair in given for word in pair)
