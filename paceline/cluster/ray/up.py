"""A machine of a Ray cluster from its start to its end, in the calling process."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec.structs import replace

from paceline.cluster.join import join
from paceline.cluster.parent.commands import node_share
from paceline.cluster.parent.parent import OnStatus, run_parent
from paceline.cluster.parent.port import Served, held_port
from paceline.cluster.ray.environment import PURPOSE
from paceline.cluster.ray.options import (
    HeadOptions,
    JoinOptions,
    Place,
    bracketed,
    check,
    check_machine,
    check_room,
    check_sockets,
    control_of,
    head_commands,
    joined_commands,
)
from paceline.process.cpus import usable_cpus
from paceline.process.home import Home
from paceline.process.memory import MachineMemory, machine_memory
from paceline.process.versions import versions
from paceline.transport.membership import Membership
from paceline.types.errors import InvalidRequest
from paceline.types.join import JoinRequest, Welcome

JOIN_S = 15.0
RAY_BYTES = 768 * 2**20
"""Left to Ray: 360 MB for its servers, 90 for the agent's part, and 50 in each of a few runners."""

ELSEWHERE = ("198.51.100.1", 9)
"""An address of nobody (RFC 5737): what leads there leads to the world."""

OnToken = Callable[[str, str, bool], None]
"""Called with the HOST:PORT and the token with which other machines join, and whether it is new."""


def run_head(options: HeadOptions, on_token: OnToken, on_status: OnStatus) -> int:
    """Runs the first machine as `run_parent` does.

    Raises InvalidRequest or Unavailable, with nothing started, when it cannot be: the home is
    held, a port is in use, the disk has no room, Ray is not installed.
    """
    check(options)
    _check_installed()
    home = Home(options.home)
    with home.lock(), held_port(options.host, options.port) as port:
        for taken in {options.control_port, options.ray_port} - {0}:
            _check_free(options, taken)
        is_new = not home.membership.exists()
        membership = Membership.of_head(home)
        home.ray.mkdir(mode=0o700, exist_ok=True)
        check_room(home.ray)
        on_token(f"{bracketed(options.host)}:{options.control_port}", membership.token, is_new)
        cluster_id = home.cluster_id()
        with _ray_directory(home) as temp:
            place = _place(options, home, temp, membership, cluster_id, port)
            served = Served(host=options.host, port=port, api_key=options.api_key)
            made = head_commands(options, place)
            return run_parent(home, cluster_id, made, served, on_status)


def run_joined(
    options: JoinOptions, on_welcome: Callable[[Welcome], None], on_status: OnStatus
) -> int:
    """Asks the head for a place, then runs this machine as `run_parent` does.

    Raises what `join` does, and as `run_head`; then nothing is started.
    """
    check_machine(options)
    _check_installed()
    options = replace(options, head=numeric(options.head))
    home = Home(options.home)
    with home.lock(), held_port(options.host, options.port) as port:
        membership = _membership(home, options.token)
        origin = f"{options.host}:{home.path}"
        request = JoinRequest(node=options.node, versions=versions(), origin=origin)
        welcome = join(control_of(options.head), membership, request, JOIN_S)
        if welcome.ray_address is None:
            raise InvalidRequest(
                f"the cluster at {options.head} is of one machine; start it with "
                "`paceline up --cluster ray`"
            )
        membership.keep(home)
        on_welcome(welcome)
        with _ray_directory(home) as temp:
            place = _place(options, home, temp, membership, welcome.cluster_id, port)
            served = Served(host=options.host, port=port, api_key=welcome.api_key)
            made = joined_commands(
                options, place, welcome.timing, welcome.ray_address, welcome.api_key
            )
            return run_parent(home, welcome.cluster_id, made, served, on_status)


def numeric(head: str) -> str:
    """The head's HOST:PORT without a name: libzmq would look that up again at every reconnection,
    on the thread that everything else goes through. Raises InvalidRequest."""
    host, port = _host_and_port(head)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # A name means IPv4 where it has both, as it does for libzmq.
        *_, address = min(found, key=lambda one: one[0] is not socket.AF_INET)
        host, _ = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    except (OSError, UnicodeError) as error:
        raise InvalidRequest(f"{head!r} cannot be found: {error}") from error
    return f"{bracketed(host)}:{port}"


def address_towards(head: str) -> str:
    """The address of this machine from which the head is reached. Raises InvalidRequest."""
    try:
        return _source(*_host_and_port(head))
    except (OSError, UnicodeError) as error:
        raise InvalidRequest(f"there is no way from here to {head}: {error}") from error


def _host_and_port(head: str) -> tuple[str, int]:
    host, _, port = control_of(head).removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), int(port)


def own_address() -> str:
    """The address of this machine that others most likely reach. Raises InvalidRequest."""
    try:
        return _source(*ELSEWHERE)
    except OSError as error:
        raise InvalidRequest(
            f"this machine has no network ({error}); name its address with --host"
        ) from error


def _source(host: str, port: int) -> str:
    """Where packets to there would come from; none is sent. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as end:
        end.connect(address)
        return str(end.getsockname()[0])


def _membership(home: Home, token: str | None) -> Membership:
    if home.membership.exists() and Membership.of(home).head is not None:
        raise InvalidRequest(
            f"{home.path} is the home of a cluster of its own; set PACELINE_HOME to another "
            "directory to join one"
        )
    return Membership.of(home) if token is None else Membership.from_token(token)


def _place(
    options: HeadOptions | JoinOptions,
    home: Home,
    temp: Path,
    membership: Membership,
    cluster_id: str,
    port: int,
) -> Place:
    return Place(
        home=home.path,
        runtime=home.runtime(),
        temp=temp,
        cluster_id=cluster_id,
        port=port,
        share=node_share(1, options.node_memory, _memory_beside_ray(), usable_cpus()),
        ray_token=membership.derived(PURPOSE),
    )


def _memory_beside_ray() -> MachineMemory:
    memory = machine_memory()
    return MachineMemory(memory.total, max(0, memory.available - RAY_BYTES))


@contextmanager
def _ray_directory(home: Home) -> Iterator[Path]:
    """For Ray's sockets and logs, with nothing in it that a predecessor left; none afterwards."""
    temp = home.runtime() / "ray"
    check_sockets(temp)
    shutil.rmtree(temp, ignore_errors=True)
    try:
        yield temp
    finally:
        shutil.rmtree(temp, ignore_errors=True)
        with suppress(OSError):
            temp.parent.rmdir()


def _check_free(options: HeadOptions, port: int) -> None:
    with held_port(options.host, port):
        pass


def _check_installed() -> None:
    if versions().ray is None:
        raise InvalidRequest("Ray is not installed; run `pip install 'paceline[ray]'`")
