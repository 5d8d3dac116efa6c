from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
import zmq

from paceline.transport.control import (
    MAX_MESSAGE_BYTES,
    ControlClient,
    ControlServer,
    Malformed,
    reach,
)
from paceline.transport.errors import AddressUnusable
from paceline.transport.membership import Membership
from paceline.transport.sockets import DRAIN_LIMIT
from paceline.types.control import PROTOCOL, Answer, Assign, Line, NodeBeat, ToController, ToRunner
from paceline.types.facts import NodeFacts
from paceline.types.ids import Epoch, NodeName, TaskId
from paceline.types.tasks import WarmUp

Context = zmq.Context[zmq.Socket[bytes]]
Eventually = Callable[[Callable[[], object]], None]

OURS = Membership.fresh()
ASSIGN = Assign(WarmUp(task_id=TaskId("task-1"), epoch=Epoch(1, 1), deadline_s=5.0))


def beat(pid: int = 1) -> NodeBeat:
    facts = NodeFacts(
        name=NodeName("n1"),
        incarnation="a",
        cluster_id="c",
        pid=pid,
        host="h",
        cpus=1,
        memory_bytes=1,
    )
    return NodeBeat(facts)


@pytest.fixture
def address(runtime: Path) -> str:
    return f"ipc://{runtime / 'control'}"


@pytest.fixture
def server(address: str, context: Context) -> Iterator[ControlServer]:
    with ControlServer(address, OURS, context=context) as server:
        yield server


@pytest.fixture
def client(address: str, context: Context) -> Iterator[ControlClient[ToRunner]]:
    with ControlClient[ToRunner](address, "runner:r1", ToRunner, OURS, context=context) as client:
        yield client


def first(server: ControlServer, pid: int, client: ControlClient[ToRunner]) -> str:
    """Beat until the server has heard it; gives the peer's name."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        client.send(beat(pid))
        for peer, message in server.receive(0.05):
            if message == beat(pid):
                return peer
    raise AssertionError("no beat came")


def orders(client: ControlClient[ToRunner]) -> list[ToRunner | Malformed]:
    assert client.socket.poll(10_000)
    return client.receive()


def test_facts_go_up_and_orders_come_down(
    server: ControlServer, client: ControlClient[ToRunner]
) -> None:
    peer = first(server, 1, client)
    assert peer == "runner:r1"
    line = Line(epoch=Epoch(1, 1), offers=(), gateway_keys=())
    assert server.send(peer, ASSIGN)
    assert server.send(peer, line)
    got = orders(client)
    while len(got) < 2:
        got += orders(client)
    assert got == [ASSIGN, line]
    assert client.receive() == []


def test_nobody_is_there(server: ControlServer, address: str) -> None:
    assert not server.send("runner:nobody", ASSIGN)
    assert server.receive(0.01) == []


def test_messages_that_cannot_be_read_are_counted_and_named(
    server: ControlServer, address: str, context: Context, client: ControlClient[ToRunner]
) -> None:
    peer = context.socket(zmq.DEALER)
    reach(peer, address, "node:bad", OURS)
    nonsense = [
        [b"\xc1"],
        [b""],
        [b"two", b"parts"],
        [b"\x81\xa1a" + b"\x91" * 10_000 + b"\xc0"],
        [msgspec.msgpack.encode({"type": "coup", "facts": {}})],
        [msgspec.msgpack.encode({"type": "node_beat", "facts": {"name": 3}})],
        [msgspec.msgpack.encode({"type": "node_beat", "facts": {"name": b"\xff"}})],
    ]
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            for parts in nonsense:
                peer.send_multipart(parts)
        peer.send(msgspec.msgpack.encode(beat()))
        taken: list[tuple[str, ToController]] = []
        while not taken:
            taken = server.receive(1.0)
    peer.close()
    assert taken == [("node:bad", beat())]
    assert server.malformed == 2 * len(nonsense)
    assert len(logs) == len(nonsense), "each reason is said once"
    assert {entry["peer"] for entry in logs} == {"node:bad"}
    assert first(server, 1, client) == "runner:r1"


def test_an_order_of_an_unknown_kind_can_be_answered(
    address: str, context: Context, eventually: Eventually
) -> None:
    with (
        ControlServer(address, OURS, context=context) as controller,
        ControlClient[ToRunner](address, "runner:r1", ToRunner, OURS, context=context) as client,
    ):
        server, peer = controller.socket, first(controller, 1, client).encode()
        raw = {"type": "assign", "task": {"type": "dance", "task_id": "task-9"}}
        deep = b"\x81\xa1a" + b"\x91" * 10_000 + b"\xc0"
        for payload in (msgspec.msgpack.encode(raw), b"\xc1", deep, msgspec.msgpack.encode([1])):
            server.send_multipart([peer, payload])
        server.send_multipart([peer, msgspec.msgpack.encode(ASSIGN)])
        got: list[Any] = []
        while len(got) < 5:
            got += orders(client)
    assert got[0].raw_fields == raw
    assert "dance" in got[0].reason
    assert [message.raw_fields for message in got[1:4]] == [None, None, None]
    assert got[4] == ASSIGN


def test_no_message_is_too_long_for_the_connection_to_outlive_it(
    server: ControlServer, client: ControlClient[ToRunner]
) -> None:
    peer = first(server, 1, client)
    long = bytes(MAX_MESSAGE_BYTES + 1)
    huge = msgspec.structs.replace(ASSIGN.task, task_id="x" * MAX_MESSAGE_BYTES)
    with structlog.testing.capture_logs() as logs:
        assert not server.send(peer, Assign(huge))
    assert [entry["event"] for entry in logs] == ["message too long"]
    server.socket.send_multipart([peer.encode(), long])
    assert [type(message) for message in orders(client)] == [Malformed]
    assert server.send(peer, ASSIGN)
    assert orders(client) == [ASSIGN]


def test_a_message_that_cannot_be_packed_is_logged_and_ends_nobody(
    server: ControlServer, client: ControlClient[ToRunner]
) -> None:
    peer = first(server, 1, client)
    with structlog.testing.capture_logs() as logs:
        line = Line(epoch=Epoch(2**64, 1), offers=(), gateway_keys=())
        assert not server.send(peer, line)
        assert not server.send(peer, Answer(number=1, body=object()))
    assert [entry["event"] for entry in logs] == ["message cannot be packed"] * 2
    assert server.send(peer, ASSIGN)
    assert orders(client) == [ASSIGN]


def test_a_burst_is_taken_in_bounded_bites(address: str, context: Context) -> None:
    with ControlServer(address, OURS, context=context) as server:
        clients = [
            ControlClient[ToRunner](address, f"node:{i}", ToRunner, OURS, context=context)
            for i in range(40)
        ]
        sent, deadline = 0, time.monotonic() + 10
        while sent < DRAIN_LIMIT + 40 and time.monotonic() < deadline:
            sent += sum(client.send(beat()) for client in clients)
            time.sleep(0.002)
        taken = 0
        while taken < sent:
            bite = server.receive(1.0)
            assert 0 < len(bite) <= DRAIN_LIMIT
            taken += len(bite)
        for client in clients:
            client.close()


def test_a_restarted_controller_hears_everyone_again(
    address: str, client: ControlClient[ToRunner], context: Context
) -> None:
    for incarnation in range(1, 4):
        with ControlServer(address, OURS, context=context) as server:
            peer = first(server, incarnation, client)
            assert server.send(peer, ASSIGN)
            assert orders(client) == [ASSIGN]


def test_who_watches_a_client_has_it_before_it_connects(address: str, context: Context) -> None:
    """Who is refused for good is told so once, perhaps before the constructor returns."""
    seen: list[bytes] = []
    with ControlClient[ToRunner](
        address, "runner:r1", ToRunner, OURS, context=context,
        watch=lambda socket: seen.append(socket.last_endpoint),
    ) as client:  # fmt: skip
        assert seen == [b""]
        assert client.socket.last_endpoint == address.encode()


def test_nothing_piles_up_for_a_dead_controller(
    address: str, client: ControlClient[ToRunner], context: Context
) -> None:
    with ControlServer(address, OURS, context=context) as server:
        first(server, 0, client)
    deadline = time.monotonic() + 10
    while client.send(beat(1)):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert not any(client.send(beat(1)) for _ in range(100))
    with ControlServer(address, OURS, context=context) as server:
        while not client.send(beat(2)):
            time.sleep(0.005)
        assert server.receive(10.0) == [("runner:r1", beat(2))]


def test_a_controller_that_does_not_read_fills_up(
    server: ControlServer, client: ControlClient[ToRunner], eventually: Eventually
) -> None:
    first(server, 0, client)
    sent = 0
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        sent += client.send(beat(sent))
    assert not client.send(beat())
    assert sent < 5000


def test_a_peer_that_does_not_read_fills_up_and_holds_nobody(
    server: ControlServer, client: ControlClient[ToRunner], address: str, context: Context
) -> None:
    peer = first(server, 0, client)
    big = Line(epoch=Epoch(1, 1), offers=(), gateway_keys=("k" * 4096,))
    sent, deadline = 0, time.monotonic() + 10
    while server.send(peer, big):
        sent += 1
        assert time.monotonic() < deadline
    assert sent < 5000
    with ControlClient[ToRunner](address, "runner:r2", ToRunner, OURS, context=context) as other:
        assert server.send(first(server, 1, other), ASSIGN)
        assert orders(other) == [ASSIGN]


def test_a_second_connection_of_a_name_takes_over(
    server: ControlServer, client: ControlClient[ToRunner], address: str, context: Context
) -> None:
    first(server, 1, client)
    with ControlClient[ToRunner](address, "runner:r1", ToRunner, OURS, context=context) as second:
        peer = first(server, 2, second)
        assert server.send(peer, ASSIGN)
        assert orders(second) == [ASSIGN]
        assert client.receive() == []


def test_a_beat_of_another_protocol_is_refused(
    server: ControlServer, client: ControlClient[ToRunner]
) -> None:
    first(server, 0, client)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            client.send(msgspec.structs.replace(beat(7), protocol=PROTOCOL + 1))
        client.send(beat(8))
        heard: list[object] = []
        while not heard:
            heard = server.receive(10.0)
    assert heard == [("runner:r1", beat(8))]
    assert server.malformed == 3
    (told,) = logs
    assert f"control protocol {PROTOCOL + 1}, this controller {PROTOCOL}" in told["reason"]


def test_one_that_changed_shape_too_is_refused_by_its_protocol(
    server: ControlServer, client: ControlClient[ToRunner]
) -> None:
    first(server, 0, client)
    strange = msgspec.msgpack.encode({"type": "node_pulse", "protocol": PROTOCOL + 1})
    with structlog.testing.capture_logs() as logs:
        client.socket.send(strange)
        assert server.receive(10.0) == []
    assert "the same release of paceline" in logs[0]["reason"]


def test_local_and_remote_are_one_way(
    address: str, context: Context, client: ControlClient[ToRunner]
) -> None:
    with ControlServer(address, OURS, listen="tcp://127.0.0.1:*", context=context) as server:
        assert server.listen is not None
        with ControlClient[ToRunner](
            server.listen, "runner:far", ToRunner, OURS, context=context
        ) as far:
            for peer in (client, far):
                assert server.send(first(server, 1, peer), ASSIGN)
                assert orders(peer) == [ASSIGN]


def again(address: str, listen: str, context: Context) -> ControlServer:
    """libzmq lets a port go a moment after its socket was closed."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return ControlServer(address, OURS, listen=listen, context=context)
        except AddressUnusable:
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_over_a_network_a_restarted_controller_hears_everyone_again(
    address: str, context: Context
) -> None:
    with ControlServer(address, OURS, listen="tcp://127.0.0.1:*", context=context) as server:
        far = server.listen
    assert far is not None
    with ControlClient[ToRunner](far, "runner:r1", ToRunner, OURS, context=context) as client:
        for incarnation in range(1, 4):
            with again(address, far, context) as server:
                peer = first(server, incarnation, client)
                assert server.send(peer, ASSIGN)
                assert orders(client) == [ASSIGN]


@pytest.mark.parametrize(
    "theirs",
    [
        pytest.param(Membership.fresh(), id="of another cluster"),
        pytest.param(replace(Membership.fresh(), head_key=OURS.head_key), id="of no member"),
    ],
)
def test_a_stranger_is_not_heard_and_disturbs_nobody(
    server: ControlServer,
    client: ControlClient[ToRunner],
    address: str,
    context: Context,
    theirs: Membership,
) -> None:
    with ControlClient[ToRunner](address, "runner:r1", ToRunner, theirs, context=context) as other:
        first(server, 1, client)
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            assert not other.send(beat(666))
            client.send(beat(2))
            assert {message for _, message in server.receive(0.05)} <= {beat(2)}
        assert server.send("runner:r1", ASSIGN)
        assert other.receive() == []


def test_a_member_without_the_heads_secret_is_no_head(address: str, context: Context) -> None:
    with pytest.raises(AddressUnusable, match="head's key"):
        ControlServer(address, Membership.from_token(OURS.token), context=context)


def test_wake_ends_a_wait(server: ControlServer) -> None:
    timer = threading.Timer(0.05, server.wake)
    timer.start()
    began = time.monotonic()
    assert server.receive(60.0) == []
    assert time.monotonic() - began < 30
    timer.join()
    assert server.receive(0.0) == []


def test_a_signal_handler_may_wake(server: ControlServer) -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: server.wake())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        began = time.monotonic()
        assert server.receive(60.0) == []
        assert time.monotonic() - began < 30
    finally:
        signal.signal(signal.SIGALRM, before)


def test_wakes_never_block_and_outlive_the_server(address: str, context: Context) -> None:
    with ControlServer(address, OURS, context=context) as server:
        for _ in range(10_000):
            server.wake()
        assert server.receive(0.0) == []
    server.wake()
    server.close()


def test_the_file_of_a_dead_controller_is_no_obstacle(
    runtime: Path, address: str, client: ControlClient[ToRunner], context: Context
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(runtime / "control"))
    assert (runtime / "control").exists()
    with ControlServer(address, OURS, context=context) as server:
        assert first(server, 1, client) == "runner:r1"
    assert list(runtime.iterdir()) == []


def test_addresses_that_cannot_be(context: Context) -> None:
    with pytest.raises(AddressUnusable, match="longer than the 107 bytes"):
        ControlServer("ipc:///tmp/" + "x" * 103, OURS, context=context)
    with pytest.raises(AddressUnusable, match="cannot connect to"):
        ControlClient[ToRunner]("ipc:///tmp/" + "x" * 120, "a", ToRunner, OURS, context=context)
