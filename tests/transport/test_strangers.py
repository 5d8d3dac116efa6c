"""Strangers at the ports that are open to a network: nothing changes but a counter and the log.

Each attack is held while the real peers go on talking through the same port.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import pytest
import structlog
import zmq

from paceline.transport import sockets, watch
from paceline.transport.authenticator import MAX_PENDING, Authenticator
from paceline.transport.control import ControlClient, ControlServer
from paceline.transport.errors import LinkFull
from paceline.transport.keys import KeyPair
from paceline.transport.link import Link
from paceline.transport.membership import Membership
from paceline.types.control import Assign, NodeBeat, ToRunner
from paceline.types.facts import NodeFacts
from paceline.types.ids import Epoch, NodeName, TaskId
from paceline.types.step import Sampled, Step
from paceline.types.tasks import WarmUp
from tests.transport.ring import Pair, next_frame, opened

Context = zmq.Context[zmq.Socket[bytes]]
Eventually = Callable[[Callable[[], object]], None]
Attack = Callable[[str, Context, str], AbstractContextManager[None]]

HANDSHAKE_S = 0.5
MANY = 150
OURS = Membership.fresh()
ORDER = Assign(WarmUp(task_id=TaskId("task-1"), epoch=Epoch(1, 1), deadline_s=5.0))
BEAT = NodeBeat(
    NodeFacts(
        name=NodeName("n1"),
        incarnation="a",
        cluster_id="c",
        pid=1,
        host="h",
        cpus=1,
        memory_bytes=1,
    )
)


class Port(Protocol):
    """An open port and the real peers at its two ends."""

    address: str
    server_key: str

    def talk(self) -> None:
        """A word each way, and nobody else's between them."""


def send(link: Link, body: Step | Sampled) -> None:
    """As soon as there is room: the last frames may just have been taken."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return link.send(body, None, time.monotonic())
        except LinkFull:
            assert time.monotonic() < deadline
            time.sleep(0.001)


class LinePort:
    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._number = 0
        self.address = pair.door.address
        self.server_key = pair.server_key

    def talk(self) -> None:
        self._pair.establish()
        self._number += 1
        there, back = Step(number=self._number), Sampled(number=self._number)
        for source, target, body in (
            (self._pair.up, self._pair.down, there),
            (self._pair.down, self._pair.up, back),
        ):
            send(source, body)
            assert next_frame(target, self._pair.tick).body == body


class ControlPort:
    def __init__(self, server: ControlServer, client: ControlClient[ToRunner]) -> None:
        self._server, self._client = server, client
        self.address = str(server.listen)
        self.server_key = OURS.head_key

    def talk(self) -> None:
        deadline = time.monotonic() + 10
        while not self._client.send(BEAT):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        while not (heard := self._server.receive(1.0)):
            assert time.monotonic() < deadline
        assert set(heard) == {("node:n1:a", BEAT)}
        assert self._server.send("node:n1:a", ORDER)
        assert self._client.socket.poll(10_000)
        assert self._client.receive() == [ORDER]
        assert self._server.malformed == 0


@pytest.fixture(autouse=True)
def _haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "HANDSHAKE_S", HANDSHAKE_S)
    monkeypatch.setattr(watch, "HANDSHAKE_S", HANDSHAKE_S)


@pytest.fixture(params=["line", "control"])
def port(request: pytest.FixtureRequest, context: Context, runtime: Path) -> Iterator[Port]:
    if request.param == "line":
        with opened(context, None, "127.0.0.1") as pair:
            yield LinePort(pair)
        return
    address, name = f"ipc://{runtime}/control", "node:n1:a"
    with (
        ControlServer(address, OURS, listen="tcp://127.0.0.1:*", context=context) as server,
        ControlClient[ToRunner](
            str(server.listen), name, ToRunner, OURS, context=context
        ) as client,
    ):
        yield ControlPort(server, client)


def place(address: str) -> tuple[str, int]:
    host, _, number = address.removeprefix("tcp://").rpartition(":")
    return host, int(number)


@contextmanager
def saying(address: str, words: bytes) -> Iterator[None]:
    with socket.create_connection(place(address), 10) as line:
        line.sendall(words)
        yield


@contextmanager
def knocking(address: str, context: Context, prepare: Callable[..., None]) -> Iterator[None]:
    """A ZeroMQ peer that keeps trying."""
    with context.socket(zmq.DEALER) as peer:
        peer.linger = 0
        peer.immediate = True
        peer.reconnect_ivl = 10
        prepare(peer)
        peer.connect(address)
        yield
        assert not peer.poll(0, zmq.POLLOUT), "it got in"
        assert not peer.poll(0), "it was told something"


@contextmanager
def trickling(address: str) -> Iterator[None]:
    """A byte at a time, of what begins like one of us."""
    ended = threading.Event()

    def trickle() -> None:
        with socket.create_connection(place(address), 10) as line:
            for byte in GREETING:
                if ended.wait(0.05):
                    return
                try:
                    line.sendall(bytes([byte]))
                except OSError:
                    return

    thread = threading.Thread(target=trickle)
    thread.start()
    yield
    ended.set()
    thread.join()


@contextmanager
def crowding(address: str) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(MANY):
            stack.enter_context(socket.create_connection(place(address), 10))
        yield


@contextmanager
def queueing(address: str, context: Context, server_key: str) -> Iterator[None]:
    """More unknown keys than may wait for their answer."""
    with ExitStack() as stack:
        for _ in range(MAX_PENDING + 16):
            stack.enter_context(knocking(address, context, unknown_key(server_key)))
        yield


def unknown_key(server_key: str) -> Callable[[zmq.Socket[bytes]], None]:
    return lambda peer: sockets.unlock(peer, KeyPair.fresh(), server_key)


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
NOISE = random.Random(7).randbytes(65_536)

ATTACKS: dict[str, Attack] = {
    "an unknown key": lambda at, context, key: knocking(at, context, unknown_key(key)),
    "another head's key": lambda at, context, _: knocking(
        at, context, unknown_key(KeyPair.fresh().public)
    ),
    "no CURVE": lambda at, context, _: knocking(at, context, lambda _: None),
    "noise": lambda at, *_: saying(at, NOISE),
    "HTTP": lambda at, *_: saying(at, b"POST / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "noise after a greeting": lambda at, *_: saying(at, GREETING + NOISE),
    "silence": lambda at, *_: saying(at, b""),
    "silence after a greeting": lambda at, *_: saying(at, GREETING),
    "slow loris": lambda at, *_: trickling(at),
    "many connections": lambda at, *_: crowding(at),
    "many keys": lambda at, context, key: queueing(at, context, key),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_the_real_peers_go_on_and_the_stranger_is_counted(
    port: Port, context: Context, attack: Attack
) -> None:
    authenticator = Authenticator.of(context)
    port.talk()
    before = authenticator.refused + authenticator.strangers
    with structlog.testing.capture_logs() as logs, attack(port.address, context, port.server_key):
        deadline = time.monotonic() + 10
        while authenticator.refused + authenticator.strangers == before:
            assert time.monotonic() < deadline, "nobody noticed"
            port.talk()
        port.talk()
    port.talk()
    assert {entry["event"] for entry in logs} <= {"key refused", "a stranger was shown out"}
    assert logs


def test_one_who_says_nothing_is_shown_the_door(port: Port) -> None:
    with socket.create_connection(place(port.address), 10) as line:
        line.settimeout(10)
        while line.recv(4096):
            port.talk()


class Tap(threading.Thread):
    """Passes one connection on, and keeps what its client said."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._beyond = place(address)
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.said = b""

    def run(self) -> None:
        near, _ = self._listener.accept()
        self._listener.close()
        far = socket.create_connection(self._beyond, 10)
        back = threading.Thread(target=self._carry, args=(far, near, False), daemon=True)
        back.start()
        self._carry(near, far, True)
        back.join()

    def _carry(self, source: socket.socket, target: socket.socket, keep: bool) -> None:
        try:
            while data := source.recv(65_536):
                if keep:
                    self.said += data
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            end.close()


def test_frames_of_an_old_epoch_open_no_door_of_the_next(context: Context) -> None:
    taps: list[Tap] = []

    def tapped(address: str) -> str:
        taps.append(Tap(address))
        taps[0].start()
        return taps[0].address

    with opened(context, None, "127.0.0.1", through=tapped) as old:
        LinePort(old).talk()
    taps[0].join(10)
    assert b"INITIATE" in taps[0].said
    authenticator = Authenticator.of(context)
    with opened(context, None, "127.0.0.1", epoch=Epoch(3, 8)) as pair:
        port = LinePort(pair)
        port.talk()
        before = authenticator.strangers
        with saying(port.address, taps[0].said):
            deadline = time.monotonic() + 10
            while authenticator.strangers == before:
                assert time.monotonic() < deadline, "nobody noticed"
                port.talk()
        port.talk()


def test_what_a_member_said_means_nothing_when_said_again(context: Context, runtime: Path) -> None:
    """Every connection has keys of its own, so no recording of one opens another, whatever epoch
    its frames were of."""
    address, name = f"ipc://{runtime}/control", "node:n1:a"
    authenticator = Authenticator.of(context)
    with ControlServer(address, OURS, listen="tcp://127.0.0.1:*", context=context) as server:
        tap = Tap(str(server.listen))
        tap.start()
        with ControlClient[ToRunner](tap.address, name, ToRunner, OURS, context=context) as client:
            while not client.send(BEAT):
                time.sleep(0.01)
            assert server.receive(10.0) == [(name, BEAT)]
        tap.join(10)
        assert b"INITIATE" in tap.said
        before = authenticator.strangers
        with saying(str(server.listen), tap.said):
            deadline = time.monotonic() + 10
            while authenticator.strangers == before:
                assert time.monotonic() < deadline
                assert server.receive(0.05) == []
