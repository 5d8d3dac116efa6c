"""What a machine of a Ray cluster is started with, and the children that follow from it."""

from __future__ import annotations

import ipaddress
import shutil
import socket
from pathlib import Path

import msgspec

from paceline.cluster.local.options import DEFAULT_PORT
from paceline.cluster.parent.commands import (
    NodeShare,
    Program,
    Words,
    argv,
    common_words,
    controller,
    gateway,
    module,
)
from paceline.cluster.parent.status import Command
from paceline.cluster.ray.environment import ray_environment
from paceline.process.exposure import check_exposure
from paceline.process.runtime import MAX_SOCKET_PATH, RUNTIME_VARIABLE
from paceline.types.errors import InvalidRequest, Unavailable
from paceline.types.ids import NodeName
from paceline.types.policy import DEFAULT_TIERS, Tier, check_tiers
from paceline.types.timing import DEFAULT_TIMING, Timing, check_timing

CONTROL_PORT = 8001
MOST_PORT = 2**16 - 1
RAY_PORT = 8002
HOSTNAME = NodeName(socket.gethostname())
LEAST_FREE_BYTES = 2**30
"""The head's storage ends Ray when the disk is full; with less than this it is not begun."""
RAY_SOCKET = "session_2000-01-01_00-00-00_000000_0000000/sockets/plasma_store.0"
"""The longest path that Ray makes under its directory for sockets."""


class Programs(msgspec.Struct, frozen=True, kw_only=True):
    """How each process is started; options are appended."""

    controller: Program = module("paceline.controller")
    gateway: Program = module("paceline.gateway")
    agent: Program = module("paceline.cluster.ray.agent")
    ray: Program = module("paceline.cluster.ray.start")
    runner: str = "paceline.runner.__main__"
    """A module or file, whose `main` is called in an actor."""


class _Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What there is on every machine."""

    home: str
    host: str
    """Its address, numeric: where the others reach it, and where its gateway listens."""
    port: int = DEFAULT_PORT
    """Of its gateway; 0: any free one."""
    node: NodeName = HOSTNAME
    node_memory: int | None = None
    """Bytes that it offers to runners; None: what is free, less some headroom."""
    programs: Programs = Programs()


class HeadOptions(_Machine, frozen=True, kw_only=True):
    """The first machine: it has the controller and the head of Ray."""

    control_port: int = CONTROL_PORT
    ray_port: int = RAY_PORT
    ray_address: str | None = None
    """HOST:PORT of a Ray cluster that is there already; None: we start one."""
    api_key: str | None = None
    """What gateways ask of their clients; None: nothing, on loopback only."""
    timing: Timing = DEFAULT_TIMING
    tiers: tuple[Tier, ...] = DEFAULT_TIERS

    @property
    def ray_head(self) -> str:
        return self.ray_address or f"{bracketed(self.host)}:{self.ray_port}"


class JoinOptions(_Machine, frozen=True, kw_only=True):
    """Any other machine."""

    head: str
    """HOST:PORT of the head's control path."""
    token: str | None = None
    """As the head prints it; None: this home has joined before."""
    has_ray: bool = False
    """Ray runs here already; we start none."""


def check(options: HeadOptions) -> None:
    """Raises InvalidRequest for what can never work."""
    for port in (options.port, options.control_port, options.ray_port):
        if not 0 <= port <= MOST_PORT:
            raise InvalidRequest(f"port {port}; choose 1 to {MOST_PORT}")
    check_machine(options)
    check_exposure(options.host, options.api_key)
    check_timing(options.timing)
    check_tiers(options.tiers)


def check_machine(options: _Machine) -> None:
    """Raises InvalidRequest."""
    try:
        ipaddress.ip_address(options.host)
    except ValueError:
        raise InvalidRequest(
            f"{options.host!r} is no numeric address; give --host as in 192.168.1.20"
        ) from None
    if options.node_memory is not None and options.node_memory <= 0:
        raise InvalidRequest("a node needs memory; give --node-memory as in 2GiB")


def check_sockets(temp: Path) -> None:
    """Raises InvalidRequest where Ray's sockets would have too long a path."""
    if len(str(temp / RAY_SOCKET)) > MAX_SOCKET_PATH:
        raise InvalidRequest(
            f"Ray's sockets under {temp} would have paths of more than {MAX_SOCKET_PATH} bytes; "
            f"set {RUNTIME_VARIABLE} to a shorter directory"
        )


def check_room(storage: Path) -> None:
    """Raises Unavailable where the disk has too little room for the head's storage."""
    free = shutil.disk_usage(storage).free
    if free < LEAST_FREE_BYTES:
        raise Unavailable(
            f"only {free / 2**20:.0f} MiB are free at {storage}, and Ray's head storage needs "
            f"{LEAST_FREE_BYTES / 2**20:.0f} MiB to be safe: make room there"
        )


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of this machine once its parent holds the home."""

    home: Path
    runtime: Path
    temp: Path
    """For Ray's sockets and logs."""
    cluster_id: str
    port: int
    """Of the gateway."""
    share: NodeShare
    ray_token: str


def head_commands(options: HeadOptions, place: Place) -> list[Command]:
    """The children, in the order in which they are started."""
    common = common_words(place.home, place.runtime, place.cluster_id, options.timing)
    programs, key, ray = options.programs, options.api_key, options.ray_head
    listen = f"tcp://{bracketed(options.host)}:{options.control_port}"
    own_ray = options.ray_address is None
    return [
        *([_ray(options, place, {"--port": options.ray_port})] if own_ray else []),
        controller(programs.controller, common, options.tiers, key, listen=listen, ray_address=ray),
        gateway(programs.gateway, common, options.host, place.port, key),
        _agent(options, place, common, ray, own_ray=own_ray),
    ]


def joined_commands(
    options: JoinOptions, place: Place, timing: Timing, ray: str, api_key: str | None
) -> list[Command]:
    """The children, in the order in which they are started."""
    common = common_words(place.home, place.runtime, place.cluster_id, timing)
    common |= {"--control": control_of(options.head)}
    return [
        *([] if options.has_ray else [_ray(options, place, {"--head": ray})]),
        gateway(options.programs.gateway, common, options.host, place.port, api_key),
        _agent(options, place, common, ray, own_ray=not options.has_ray),
    ]


def control_of(head: str) -> str:
    """The ZeroMQ address of a head's HOST:PORT; its control port where none is named.

    Raises InvalidRequest."""
    host, colon, port = head.rpartition(":") if not head.endswith("]") else (head, "", "")
    if not colon:
        host, port = head, str(CONTROL_PORT)
    if not host or not port.isdecimal() or not 0 < int(port) <= MOST_PORT:
        raise InvalidRequest(f"{head!r} is no address; give HOST:PORT as the head printed it")
    return f"tcp://{host}:{port}"


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _ray(options: _Machine, place: Place, where: Words) -> Command:
    words = {"--home": place.home, "--temp": place.temp, "--host": options.host} | where
    made = argv(options.programs.ray, words)
    env = ray_environment(place.ray_token)
    return Command(role="ray", name="ray", argv=made, env=env, kernel_kills=False)


def _agent(options: _Machine, place: Place, common: Words, ray: str, *, own_ray: bool) -> Command:
    words = common | {
        "--host": options.host,
        "--node": options.node,
        "--memory": place.share.memory_bytes,
        "--threads": place.share.threads,
        "--ray": ray,
        "--runner": options.programs.runner,
    }
    # A Ray that is not ours has secrets of its own, and they are in our environment already.
    env = ray_environment(place.ray_token) if own_ray else {}
    return Command(
        role="node", name=options.node, argv=argv(options.programs.agent, words), env=env
    )
