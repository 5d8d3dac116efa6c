from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from paceline.transport.errors import LinkFull
from paceline.transport.frames import Tensor
from paceline.transport.keys import KeyPair
from paceline.transport.link import LINK_MESSAGES, Link
from paceline.transport.sockets import leftovers
from paceline.types.facts import LinkOffer
from paceline.types.step import Sampled, Step
from tests.transport.ring import DEADLINE_S, fill, next_frame

Context = zmq.Context[zmq.Socket[bytes]]
Peer = tuple[Link, subprocess.Popen[bytes]]

REPOSITORY = Path(__file__).parents[2]
BLOCK = Tensor("int8", (2**16,), bytes(2**16))


@pytest.fixture
def peer(runtime: Path, context: Context) -> Iterator[Peer]:
    """A link to a process that sends everything back."""
    keys = KeyPair.fresh()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.transport.peer", str(runtime), keys.public],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        try:
            offer = msgspec.json.decode(process.stdout.readline(), type=LinkOffer)
            with Link.connect(offer, rank=0, keys=keys, context=context) as link:
                wait_until(link, lambda: link.established)
                yield link, process
        finally:
            process.kill()
            process.wait(DEADLINE_S)


def wait_until(link: Link, condition: Callable[[], bool]) -> None:
    """Live on the link until the condition holds; nothing but beats may come meanwhile."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        now = time.monotonic()
        assert now < deadline
        link.tick(now)
        assert link.receive(now) is None
        link.socket.poll(20)


def silence(link: Link) -> float:
    found = link.silence(time.monotonic())
    assert found is not None
    return found


def test_a_stopped_neighbour_falls_silent_fills_up_and_carries_on(peer: Peer) -> None:
    link, process = peer
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    sent = fill(link, Step(number=7), BLOCK)
    assert sent >= LINK_MESSAGES // 2
    assert sent * len(BLOCK.data) < 64 * 2**20
    wait_until(link, lambda: silence(link) > 0.6)
    with pytest.raises(LinkFull):
        link.send(Step(number=8), BLOCK, time.monotonic())
    process.send_signal(signal.SIGCONT)
    for _ in range(sent):
        assert next_frame(link).body == Sampled(number=7)
    wait_until(link, lambda: silence(link) < 0.1)


def test_a_killed_neighbour_falls_silent_and_its_files_can_be_found(
    peer: Peer, runtime: Path
) -> None:
    link, process = peer
    process.kill()
    process.wait(DEADLINE_S)
    wait_until(link, lambda: silence(link) > 0.6)
    with pytest.raises(LinkFull):
        link.send(Step(number=1), None, time.monotonic())
    assert [path.name[:5] for path in leftovers(runtime, process.pid)] == ["door-"]


def test_how_long_a_round_trip_takes(peer: Peer) -> None:
    """Prints; asserts only that every frame came back whole."""
    link, _ = peer
    for size in (2 * 2**10, 16 * 2**10, 256 * 2**10):
        tensor = Tensor("int8", (size,), os.urandom(size))
        times = []
        for number in range(100):
            began = time.perf_counter()
            link.send(Step(number=number), tensor, time.monotonic())
            frame = next_frame(link)
            times.append(time.perf_counter() - began)
            assert frame.body == Sampled(number=number)
            assert frame.tensor is not None
            assert bytes(frame.tensor.data) == tensor.data
        print(f"{size:7} bytes: median round trip {sorted(times)[50] * 1e3:.3f} ms")
