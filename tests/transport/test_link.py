from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from paceline.transport.door import Door
from paceline.transport.errors import AddressUnusable, FrameDamaged, LinkBroken, LinkFull
from paceline.transport.frames import (
    DATA_PROTOCOL,
    Beat,
    Body,
    Frame,
    Hello,
    Tensor,
    decode,
    encode,
)
from paceline.transport.keys import KeyPair
from paceline.transport.link import BEAT_S, MAX_FRAME_BYTES, Link
from paceline.transport.sockets import guard, leftovers, unlock
from paceline.types.ids import Epoch
from paceline.types.step import Sampled, Span, Step
from tests.transport.ring import (
    DEADLINE_S,
    EPOCH,
    Pair,
    fill,
    next_frame,
    offer_of,
    opened,
    read_on,
)

Context = zmq.Context[zmq.Socket[bytes]]

STEP = Step(number=1, spans=(Span(4, 0, 2, (9,), True),))
ROWS = Tensor("float32", (2, 3), bytes(range(24)))


@pytest.fixture(params=["ipc", "tcp"])
def pair(request: pytest.FixtureRequest, context: Context, runtime: Path) -> Iterator[Pair]:
    place = (runtime, None) if request.param == "ipc" else (None, "127.0.0.1")
    with opened(context, *place) as pair:
        yield pair


def test_frames_go_both_ways(pair: Pair) -> None:
    pair.establish()
    now = time.monotonic()
    for number in range(1, 4):
        pair.up.send(Step(number=number), ROWS, now)
    pair.down.send(Sampled(number=9), None, now)
    for number in range(1, 4):
        frame = next_frame(pair.down)
        assert frame.body == Step(number=number)
        assert frame.tensor is not None
        assert bytes(frame.tensor.data) == ROWS.data
    assert next_frame(pair.up).body == Sampled(number=9)


def test_a_buffer_is_free_after_send(pair: Pair) -> None:
    pair.establish()
    buffer = bytearray(b"\1" * 400_000)
    pair.up.send(STEP, Tensor("int8", (400_000,), buffer), time.monotonic())
    buffer[:] = b"\2" * 400_000
    tensor = next_frame(pair.down).tensor
    assert tensor is not None
    assert set(tensor.data) == {1}


def test_nothing_is_sent_before_the_hellos(pair: Pair) -> None:
    with pytest.raises(LinkFull, match="not established"):
        pair.up.send(STEP, ROWS, time.monotonic())
    pair.establish()
    pair.up.send(STEP, ROWS, time.monotonic())
    assert next_frame(pair.down).sequence == 1


def test_hellos_end_when_both_are_established(pair: Pair) -> None:
    pair.establish()
    for _ in range(20):
        now = time.monotonic()
        pair.up.receive(now)
        pair.down.receive(now)
        time.sleep(0.002)
    assert pair.up.socket.poll(50) == 0
    assert pair.down.socket.poll(50) == 0


def test_beats_keep_silence_short_and_nobody_sees_them(pair: Pair) -> None:
    assert pair.up.silence(0.0) is None
    pair.establish()
    later = time.monotonic() + BEAT_S
    pair.down.tick(later)
    assert pair.up.socket.poll(DEADLINE_S * 1000)
    assert pair.up.receive(later) is None
    assert pair.up.silence(later + 0.5) == pytest.approx(0.5)


def test_a_beat_is_sent_only_where_nothing_else_was(pair: Pair) -> None:
    pair.establish()
    now = time.monotonic()
    pair.up.send(STEP, None, now)
    pair.up.tick(now + BEAT_S * 0.9)
    assert next_frame(pair.down).sequence == 1
    pair.up.tick(now + BEAT_S * 1.1)
    pair.up.send(STEP, None, now)
    assert next_frame(pair.down).sequence == 3


def test_a_frame_too_large_does_not_leave_and_breaks_nothing(pair: Pair) -> None:
    pair.establish()
    big = Tensor("int8", (MAX_FRAME_BYTES,), bytes(MAX_FRAME_BYTES))
    with pytest.raises(FrameDamaged, match="does not travel"):
        pair.up.send(STEP, big, time.monotonic())
    pair.up.send(STEP, ROWS, time.monotonic())
    assert next_frame(pair.down).sequence == 1


def test_a_neighbour_that_does_not_read_fills_the_link(context: Context, runtime: Path) -> None:
    block = Tensor("int8", (2**16,), bytes(2**16))
    with opened(context, runtime, messages=4) as pair:
        pair.establish()
        sent = fill(pair.up, STEP, block)
        assert sent < 200
        with pytest.raises(LinkFull, match="rank 1 does not take frames"):
            pair.up.send(STEP, block, time.monotonic())
        pair.up.tick(time.monotonic() + 10)
        assert pair.up.broken == ""
        for number in range(1, sent + 1):
            assert next_frame(pair.down).sequence == number
        assert pair.up.socket.poll(DEADLINE_S * 1000, zmq.POLLOUT)
        pair.up.send(STEP, block, time.monotonic())
        assert next_frame(pair.down).sequence == sent + 1


# --- what a neighbour may do wrong ---------------------------------------------------------------


def frame(sequence: int, body: Body = STEP, epoch: Epoch = EPOCH) -> list[bytes]:
    return [bytes(part) for part in encode(Frame(epoch, sequence, body, None))]


def damaged(parts: list[bytes]) -> list[bytes]:
    return [parts[0][:-1] + bytes([parts[0][-1] ^ 1])]


def of_protocol(protocol: int, parts: list[bytes]) -> list[bytes]:
    assert parts[0][1] == DATA_PROTOCOL
    return [parts[0][:1] + bytes([protocol]) + parts[0][2:]]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([frame(1), frame(3)], "a frame was lost: 3 came, 2 was next"),
        ([frame(1), frame(1)], "a frame was repeated: 1 came, 2 was next"),
        ([damaged(frame(1))], "checksum does not match"),
        ([of_protocol(1, frame(1))], "the peer speaks data protocol 1, this process 2"),
        ([frame(1, epoch=Epoch(2, 99))], "an older epoch, 2.99"),
        ([frame(1, epoch=Epoch(3, 8))], "a newer epoch, 3.8"),
        ([frame(0, Hello(5, True, True))], "rank 5 is there"),
        ([frame(0, Hello(0, True, True), Epoch(3, 6))], "an older epoch, 3.6"),
        ([[b"noise"]], "cannot be read"),
        ([[b"three", b"parts", b"here"]], "one or two parts"),
        ([frame(1, Beat()), frame(3, Beat())], "a frame was lost"),
    ],
)
def test_a_neighbour_that_breaks_the_rules_breaks_the_link(
    context: Context, runtime: Path, messages: list[list[bytes]], reason: str
) -> None:
    mine, theirs = KeyPair.fresh(), KeyPair.fresh()
    with (
        Door.open(EPOCH, 1, directory=runtime, keys=theirs, context=context) as door,
        context.socket(zmq.DEALER) as peer,
    ):
        door.admit([mine.public])
        link = door.accept(0)
        unlock(peer, mine, theirs.public)
        peer.linger = 0
        peer.connect(door.address)
        peer.send_multipart(frame(0, Hello(0, True, False)))
        for message in messages:
            peer.send_multipart(message)
        with pytest.raises(LinkBroken) as broken:
            read_on(link)
        assert reason in str(broken.value)
        assert "link of epoch 3.7 to rank 0" in str(broken.value)
        assert not link.established
        for use in (link.tick, link.receive):
            with pytest.raises(LinkBroken) as again:
                use(time.monotonic())
            assert str(again.value) == str(broken.value)
        with pytest.raises(LinkBroken):
            link.send(STEP, None, time.monotonic())


def test_an_answer_that_was_lost_is_given_again(context: Context, runtime: Path) -> None:
    mine, theirs = KeyPair.fresh(), KeyPair.fresh()
    with (
        Door.open(EPOCH, 1, directory=runtime, keys=theirs, context=context) as door,
        context.socket(zmq.DEALER) as peer,
    ):
        door.admit([mine.public])
        link = door.accept(0)
        unlock(peer, mine, theirs.public)
        peer.linger = 0
        peer.connect(door.address)
        for _ in range(3):
            peer.send_multipart(frame(0, Hello(0, True, False)))
            assert link.socket.poll(DEADLINE_S * 1000)
            assert link.receive(time.monotonic()) is None
            assert peer.poll(DEADLINE_S * 1000)
            assert decode(peer.recv_multipart()).body == Hello(1, True, True)


def test_a_closed_link_says_so(context: Context, runtime: Path) -> None:
    with opened(context, runtime) as pair:
        pair.up.close()
        pair.up.close()
        with pytest.raises(LinkBroken, match="closed"):
            pair.up.tick(time.monotonic())


# --- who may come in -----------------------------------------------------------------------------


def test_an_unknown_key_is_refused(
    context: Context, runtime: Path, eventually: Callable[[Callable[[], object]], None]
) -> None:
    keys, neighbour, stranger = KeyPair.fresh(), KeyPair.fresh(), KeyPair.fresh()
    with Door.open(EPOCH, 1, directory=runtime, keys=keys, context=context) as door:
        door.admit([neighbour.public])
        with Link.connect(offer_of(door, keys), rank=0, keys=stranger, context=context) as link:
            authenticator = door.authenticator
            eventually(lambda: authenticator.refused > 0)
            link.tick(time.monotonic())
            assert door.accept(0).receive(time.monotonic()) is None
            assert not link.established


def test_a_client_without_a_key_is_refused(context: Context, runtime: Path) -> None:
    keys = KeyPair.fresh()
    with (
        Door.open(EPOCH, 1, directory=runtime, keys=keys, context=context) as door,
        context.socket(zmq.DEALER) as stranger,
    ):
        door.admit([KeyPair.fresh().public])
        stranger.linger = 0
        stranger.immediate = True
        stranger.connect(door.address)
        assert stranger.poll(300, zmq.POLLOUT) == 0
        assert door.accept(0).receive(time.monotonic()) is None


def test_a_door_of_another_key_is_not_entered(context: Context, runtime: Path) -> None:
    keys, mine, other = KeyPair.fresh(), KeyPair.fresh(), KeyPair.fresh()
    with Door.open(EPOCH, 1, directory=runtime, keys=keys, context=context) as door:
        door.admit([mine.public])
        with Link.connect(offer_of(door, other), rank=0, keys=mine, context=context) as link:
            assert link.socket.poll(300, zmq.POLLOUT) == 0


def test_without_an_authenticator_nobody_gets_in(context: Context) -> None:
    keys, anybody = KeyPair.fresh(), KeyPair.fresh()
    with context.socket(zmq.DEALER) as door, context.socket(zmq.DEALER) as peer:
        guard(door, keys, "a-domain")
        port = door.bind_to_random_port("tcp://127.0.0.1")
        unlock(peer, anybody, keys.public)
        peer.immediate = True
        peer.connect(f"tcp://127.0.0.1:{port}")
        assert peer.poll(300, zmq.POLLOUT) == 0


def test_who_comes_before_it_is_admitted_waits_and_gets_in(context: Context, runtime: Path) -> None:
    with opened(context, runtime) as pair:
        pair.door.admit([])
        assert pair.up.socket.poll(200, zmq.POLLOUT) == 0
        pair.door.admit([pair.up_key])
        pair.establish()


def test_who_was_refused_tries_again_and_gets_in(
    context: Context, runtime: Path, eventually: Callable[[Callable[[], object]], None]
) -> None:
    with opened(context, runtime) as pair:
        pair.door.admit([])
        eventually(lambda: pair.door.authenticator.refused > 0)
        pair.door.admit([pair.up_key])
        pair.establish()


# --- where a door is -----------------------------------------------------------------------------


def test_a_closed_door_leaves_no_file(context: Context, runtime: Path) -> None:
    door = Door.open(EPOCH, 1, directory=runtime, keys=KeyPair.fresh(), context=context)
    assert len(list(runtime.iterdir())) == 1
    door.close()
    door.close()
    assert list(runtime.iterdir()) == []


def test_leftovers_are_those_of_one_process(runtime: Path) -> None:
    for name in ("door-12-0a1b2c3d", "front-12-0a1b2c3d", "door-123-0a1b2c3d", "control"):
        (runtime / name).touch()
    assert {path.name for path in leftovers(runtime, 12)} == {
        "door-12-0a1b2c3d",
        "front-12-0a1b2c3d",
    }


@pytest.mark.parametrize(
    ("directory", "host", "sentence"),
    [
        (Path("/tmp") / ("x" * 100), None, "longer than the 107 bytes.*shorter runtime directory"),
        (Path("/nowhere/at/all"), None, "cannot listen on ipc:///nowhere"),
        (None, "192.0.2.1", "cannot listen on tcp://192.0.2.1"),
        (None, "0.0.0.0", "means every address"),
        (None, "localhost", "no numeric IP address"),
        (None, None, "either a directory"),
        (Path("/tmp"), "127.0.0.1", "either a directory"),
    ],
)
def test_a_place_where_no_door_can_be(
    context: Context, directory: Path | None, host: str | None, sentence: str
) -> None:
    with pytest.raises(AddressUnusable, match=sentence):
        Door.open(EPOCH, 1, directory=directory, host=host, keys=KeyPair.fresh(), context=context)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_a_door_on_ipv6(context: Context) -> None:
    try:
        with opened(context, None, "::1") as pair:
            assert pair.door.address.startswith("tcp://[::1]:")
            pair.establish()
    except AddressUnusable:
        pytest.skip("no IPv6 here")
