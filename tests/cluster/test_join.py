"""Joining, against a controller's process: what a joiner is told, and what it is refused for."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import zmq

from paceline.cluster.join import NotOurs, join
from paceline.process.home import Home
from paceline.process.runtime import control_address
from paceline.process.versions import versions
from paceline.transport.control import ControlClient, ControlServer
from paceline.transport.membership import Membership
from paceline.types.control import NodeBeat, ToAgent
from paceline.types.errors import DeadlineExceeded, InvalidRequest, Unavailable
from paceline.types.facts import NodeFacts
from paceline.types.ids import NodeName
from paceline.types.join import JoinRequest, Versions
from paceline.types.timing import DEFAULT_TIMING

from .conftest import until

OURS = versions()
SOON_S, LONG_S = 2.0, 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Head:
    def __init__(self, home: Path, runtime: Path) -> None:
        self.membership = Membership.of_head(Home(home))
        self.address = f"tcp://127.0.0.1:{free_port()}"
        words = ["--home", str(home), "--runtime", str(runtime), "--cluster-id", "c-7"]
        words += ["--listen", self.address, "--ray-address", "10.0.0.1:6379"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "paceline.controller", *words],
            env={"PYTHONPATH": str(Path(__file__).parents[2]), "PACELINE_API_KEY": "sesame"},
        )
        self.local = control_address(runtime)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        head = Head(tmp_path_factory.mktemp("home"), Path(runtime))
        yield head
        head.process.kill()
        head.process.wait()


def refusal(head: Head, node: str) -> str:
    """What the head has against the name; empty if nothing."""
    try:
        join(head.address, head.membership, request(node), LONG_S)
    except Unavailable as error:
        return str(error)
    return ""


def request(node: str = "n2", told: Versions = OURS) -> JoinRequest:
    return JoinRequest(node=NodeName(node), versions=told)


def test_a_member_is_told_what_it_needs(head: Head) -> None:
    token = Membership.from_token(head.membership.token)
    welcome = join(head.address, token, request(), LONG_S)
    assert (welcome.cluster_id, welcome.timing) == ("c-7", DEFAULT_TIMING)
    assert (welcome.ray_address, welcome.api_key) == ("10.0.0.1:6379", "sesame")
    assert welcome.versions == OURS


@pytest.mark.parametrize(
    ("field", "version", "sentence"),
    [
        ("python", "3.9.1", r"Python 3\.9 there, 3\.\d+ at the head"),
        ("ray", "1.0", r"Ray 1\.0 there, \S+ at the head"),
        ("paceline", "9.9", r"Paceline 9\.9 there, \S+ at the head"),
        ("protocol", 99, r"control protocol 99 there, \d+ at the head"),
    ],
)
def test_other_versions_are_refused_and_both_named(
    head: Head, field: str, version: object, sentence: str
) -> None:
    told = msgspec.structs.replace(OURS, **{field: version})
    with pytest.raises(InvalidRequest, match=sentence):
        join(head.address, head.membership, request(told=told), LONG_S)


def test_a_patch_of_python_is_no_other_version(head: Head) -> None:
    told = msgspec.structs.replace(OURS, python=OURS.python.rpartition(".")[0] + ".99")
    assert join(head.address, head.membership, request(told=told), LONG_S).cluster_id == "c-7"


@pytest.mark.parametrize("name", ["", ".", "../n", "a/b", "a:b", "-n", "n\0", "n" * 64, "n n"])
def test_an_impossible_name_is_refused(head: Head, name: str) -> None:
    with pytest.raises(InvalidRequest, match="no name for a node"):
        join(head.address, head.membership, request(name), LONG_S)


def test_a_name_is_taken_while_its_node_lives(head: Head) -> None:
    facts = NodeFacts(
        name=NodeName("n1"), incarnation="a", cluster_id="c-7", pid=1, host="h1", cpus=1,
        memory_bytes=1,
    )  # fmt: skip
    with ControlClient[ToAgent](head.local, "node:n1:a", ToAgent, head.membership) as node:
        until(lambda: node.send(NodeBeat(facts)))
        # One beat would be old on a busy machine before it is asked.
        lives = lambda: "a node named n1 lives, on h1" in refusal(head, "n1")  # noqa: E731
        until(lambda: node.send(NodeBeat(facts)) and lives(), LONG_S)
    until(lambda: not refusal(head, "n1"), LONG_S)


def test_a_token_of_another_head_is_found_out_before_anything_is_sent(head: Head) -> None:
    with pytest.raises(NotOurs, match="was told nothing"):
        join(head.address, Membership.fresh(), request(), LONG_S)


def test_a_token_from_before_the_keys_were_made_anew(head: Head) -> None:
    stale = replace(head.membership, member=Membership.fresh().member)
    with pytest.raises(NotOurs, match="made anew"):
        join(head.address, stale, request(), LONG_S)


class Eavesdropper(threading.Thread):
    """Listens like a head, says nothing sensible, and keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.heard = b""

    def run(self) -> None:
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE".ljust(55, b"\0")
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            with line:
                line.sendall(greeting)
                while data := line.recv(4096):
                    self.heard += data
                    if b"HELLO" in self.heard:
                        break

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.join()


def test_one_that_poses_as_the_head_learns_nothing() -> None:
    ours, thief = Membership.fresh(), Eavesdropper()
    thief.start()
    with pytest.raises(NotOurs, match="was told nothing"):
        join(thief.address, ours, request("secret-name"), LONG_S)
    thief.close()
    assert b"HELLO" in thief.heard, "it did come so far"
    told = thief.heard
    for word in (b"secret-name", ours.member.secret, ours.member.public.encode()):
        assert word not in told
    assert zmq.utils.z85.decode(ours.member.public) not in told


def test_nobody_is_there() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match="nobody answered at"):
        join(address, Membership.fresh(), request(), SOON_S)


def test_a_head_that_says_nothing(tmp_path: Path) -> None:
    ours = Membership.fresh()
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        address = control_address(Path(short))
        with ControlServer(address, ours, listen="tcp://127.0.0.1:*") as server:
            far = str(server.listen)
            with pytest.raises(DeadlineExceeded, match="did not answer within"):
                join(far, ours, request(), SOON_S)
