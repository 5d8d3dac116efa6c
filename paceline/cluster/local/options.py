"""What a local cluster is started with."""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec

from paceline.cluster.parent.commands import (
    NodeShare,
    argv,
    common_words,
    controller,
    gateway,
    module,
)
from paceline.cluster.parent.status import Command
from paceline.process.exposure import check_exposure
from paceline.types.errors import InvalidRequest
from paceline.types.policy import DEFAULT_TIERS, Tier, check_tiers
from paceline.types.timing import DEFAULT_TIMING, Timing, check_timing

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
MAX_NODES = 64


class Programs(msgspec.Struct, frozen=True, kw_only=True):
    """How each process of the cluster is started; options are appended."""

    controller: tuple[str, ...] = module("paceline.controller")
    gateway: tuple[str, ...] = module("paceline.gateway")
    supervisor: tuple[str, ...] = module("paceline.cluster.local.supervisor")
    runner: tuple[str, ...] = module("paceline.runner")


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
    """What the gateway asks of its clients; None: nothing, on loopback only."""
    timing: Timing = DEFAULT_TIMING
    tiers: tuple[Tier, ...] = DEFAULT_TIERS
    programs: Programs = Programs()


def check(options: UpOptions) -> None:
    """Raises InvalidRequest for what can never work."""
    if not 1 <= options.nodes <= MAX_NODES:
        raise InvalidRequest(f"{options.nodes} nodes; choose 1 to {MAX_NODES}")
    if not 0 <= options.port <= 65535:
        raise InvalidRequest(f"port {options.port}; choose 1 to 65535, or 0 for any free one")
    if options.node_memory is not None and options.node_memory <= 0:
        raise InvalidRequest("a node needs memory; give --node-memory as in 2GiB")
    check_exposure(options.host, options.api_key)
    check_timing(options.timing)
    check_tiers(options.tiers)


def commands(
    options: UpOptions,
    home: Path,
    runtime: Path,
    cluster_id: str,
    port: int,
    share: NodeShare,
) -> list[Command]:
    """The children of the cluster, in the order in which they are started."""
    common = common_words(home, runtime, cluster_id, options.timing)
    programs, key = options.programs, options.api_key
    made = [
        controller(programs.controller, common, options.tiers, key),
        gateway(programs.gateway, common, options.host, port, key),
    ]
    for number in range(1, options.nodes + 1):
        node = common | {
            "--node": f"node-{number}",
            "--memory": share.memory_bytes,
            "--threads": share.threads,
            "--runner": shlex.join(programs.runner),
        }
        words = argv(programs.supervisor, node)
        made.append(Command(role="node", name=f"node-{number}", argv=words))
    return made
