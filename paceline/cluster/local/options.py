"""What a local cluster is started with, and what it says of itself."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import msgspec

from paceline.process.memory import MachineMemory
from paceline.types.errors import InvalidRequest
from paceline.types.policy import DEFAULT_TIERS, Tier, check_tiers
from paceline.types.timing import DEFAULT_TIMING, Timing, check_timing

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
MAX_NODES = 64
API_KEY_VARIABLE = "PACELINE_API_KEY"
"""How children are told the key: not on the command line, which others can read."""
HEADROOM_BYTES = 2**30
"""Left to the controller, the gateway, the supervisors and the rest of the machine."""


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name)


class Programs(msgspec.Struct, frozen=True, kw_only=True):
    """How each process of the cluster is started; options are appended."""

    controller: tuple[str, ...] = _module("paceline.controller")
    gateway: tuple[str, ...] = _module("paceline.gateway")
    supervisor: tuple[str, ...] = _module("paceline.cluster.local.supervisor")
    runner: tuple[str, ...] = _module("paceline.runner")


class UpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A local cluster as it is asked for."""

    home: str
    nodes: int = 1
    node_memory: int | None = None
    """Bytes that each node offers to runners; None: an equal share of what is free."""
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    """0: any free one."""
    api_key: str | None = None
    """What the gateway asks of its clients; None: nothing."""
    timing: Timing = DEFAULT_TIMING
    tiers: tuple[Tier, ...] = DEFAULT_TIERS
    programs: Programs = Programs()


class NodeShare(msgspec.Struct, frozen=True):
    """What each virtual node has of the machine."""

    memory_bytes: int
    threads: int


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A child that the parent keeps alive."""

    role: str
    """controller, gateway or node"""
    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    """Added to ours."""


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


def check(options: UpOptions) -> None:
    """Raises InvalidRequest for what can never work."""
    if not 1 <= options.nodes <= MAX_NODES:
        raise InvalidRequest(f"{options.nodes} nodes; choose 1 to {MAX_NODES}")
    if not 0 <= options.port <= 65535:
        raise InvalidRequest(f"port {options.port}; choose 1 to 65535, or 0 for any free one")
    if options.node_memory is not None and options.node_memory <= 0:
        raise InvalidRequest("a node needs memory; give --node-memory as in 2GiB")
    check_timing(options.timing)
    check_tiers(options.tiers)


def node_share(options: UpOptions, memory: MachineMemory, cpus: int) -> NodeShare:
    """An equal share for every node, with headroom kept unless the memory was given."""
    headroom = min(HEADROOM_BYTES, memory.available // 4)
    share = max(0, memory.available - headroom) // options.nodes
    return NodeShare(
        memory_bytes=options.node_memory if options.node_memory is not None else share,
        threads=max(1, cpus // options.nodes),
    )


def commands(
    options: UpOptions,
    home: Path,
    runtime: Path,
    cluster_id: str,
    port: int,
    share: NodeShare,
) -> list[Command]:
    """The children of the cluster, in the order in which they are started."""
    timing = msgspec.json.encode(options.timing).decode()
    common = {
        "--home": home,
        "--runtime": runtime,
        "--cluster-id": cluster_id,
        "--timing": timing,
    }
    served = common | {"--host": options.host, "--port": port}
    # Also when empty: a key in our environment is for a cluster that we talk to.
    key = {API_KEY_VARIABLE: options.api_key or ""}
    programs = options.programs
    tiers = msgspec.json.encode(options.tiers).decode()
    made = [
        Command(
            role="controller",
            name="controller",
            argv=_argv(programs.controller, common | {"--tiers": tiers}),
            env=key,
        ),
        Command(
            role="gateway",
            name="gateway",
            argv=_argv(programs.gateway, served),
            env=key,
        ),
    ]
    for number in range(1, options.nodes + 1):
        node = common | {
            "--node": f"node-{number}",
            "--memory": share.memory_bytes,
            "--threads": share.threads,
            "--runner": shlex.join(programs.runner),
        }
        argv = _argv(programs.supervisor, node)
        made.append(Command(role="node", name=f"node-{number}", argv=argv))
    return made


def _argv(program: tuple[str, ...], arguments: dict[str, object]) -> tuple[str, ...]:
    return (*program, *(str(word) for pair in arguments.items() for word in pair))
