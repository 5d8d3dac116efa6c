"""Nodes that measure the way to each other, over real sockets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from paceline.transport.keys import KeyPair
from paceline.transport.probe import BAD_AFTER, GIVE_UP_S, NEVER_AFTER, Echo, Sounder

WAIT_S = 20.0


class Node:
    """An echo and a sounder, as an agent has them."""

    def __init__(self, name: str, directory: Path, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        keys = KeyPair.fresh()
        self.name = name
        self.public = keys.public
        self.echo = Echo.open(keys, directory=directory, context=context)
        self.sounder = Sounder(name, keys, context)

    def turn(self, now: float) -> None:
        self.echo.answer()
        self.sounder.tick(now)

    def close(self) -> None:
        self.echo.close()
        self.sounder.close()


@pytest.fixture
def nodes(runtime: Path, context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[tuple[Node, Node]]:
    pair = Node("a", runtime, context), Node("b", runtime, context)
    yield pair
    for node in pair:
        node.close()


def until(nodes: tuple[Node, ...], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        poller = zmq.Poller()
        for node in nodes:
            for socket in (node.echo.socket, *node.sounder.sockets):
                poller.register(socket, zmq.POLLIN)
        poller.poll(20)
        for node in nodes:
            node.turn(time.monotonic())


def introduce(one: Node, other: Node) -> None:
    other.echo.admit([one.public])
    one.sounder.meet({other.name: other.echo.offer})


def test_a_link_is_measured_both_there_and_back_and_in_bulk(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    introduce(a, b)
    introduce(b, a)
    until(nodes, lambda: bool(a.sounder.links and b.sounder.links))
    (link,) = a.sounder.links
    assert (link.a, link.b, link.bad) == ("a", "b", False)
    assert 0 < link.round_trip_s < 1
    assert link.bytes_per_s > 1e6


def test_an_edge_that_stops_answering_is_bad_and_good_again_when_it_answers(
    nodes: tuple[Node, Node],
) -> None:
    a, b = nodes
    introduce(a, b)
    until(nodes, lambda: bool(a.sounder.links))
    now = time.monotonic()
    for _ in range(2 * BAD_AFTER + 1):
        now += 100.0  # due, then given up; b says nothing meanwhile
        a.sounder.tick(now)
        a.sounder.tick(now + GIVE_UP_S + 0.1)
    (link,) = a.sounder.links
    assert link.bad
    until(nodes, lambda: not a.sounder.links[0].bad or _later(a, b, 1000.0))


def _later(a: Node, b: Node, seconds: float) -> bool:
    """Lets a sounding become due without waiting for it."""
    now = time.monotonic() + seconds
    a.sounder.tick(now)
    for _ in range(20):
        time.sleep(0.005)
        b.echo.answer()
        a.sounder.tick(now)
    return False


def test_an_edge_that_never_worked_is_bad_after_a_while(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    a.sounder.meet({"b": b.echo.offer})  # and b admits nobody
    now = time.monotonic()
    for number in range(NEVER_AFTER):
        assert not a.sounder.links, number
        now += 100.0
        a.sounder.tick(now)
        now += GIVE_UP_S + 0.1
        a.sounder.tick(now)
    (link,) = a.sounder.links
    assert link.bad


def test_a_stranger_is_not_answered(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    introduce(b, a)  # a admits b; b admits nobody
    a.sounder.meet({"b": b.echo.offer})
    until(nodes, lambda: bool(b.sounder.links))
    assert not a.sounder.links


def test_who_is_gone_is_measured_no_more(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    introduce(a, b)
    until(nodes, lambda: bool(a.sounder.links))
    a.sounder.meet({})
    assert not a.sounder.links
    assert not list(a.sounder.sockets)


def test_nonsense_is_echoed_to_nobody_and_hurts_nothing(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    introduce(a, b)
    until(nodes, lambda: bool(a.sounder.links))
    (socket,) = a.sounder.sockets
    for junk in ([b""], [b"x", b"y", b"z"], [b"\0" * 1000]):
        socket.send_multipart(junk)
    until(nodes, lambda: _later(a, b, 1000.0) or a.sounder.links[0].bad is False)
