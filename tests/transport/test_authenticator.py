from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import structlog
import zmq

from paceline.transport.authenticator import Authenticator
from paceline.transport.door import Door
from paceline.transport.keys import KeyPair
from paceline.transport.sparing import MAX_AT_ONCE, REPEAT_S, Sparing
from paceline.types.ids import Epoch

Context = zmq.Context[zmq.Socket[bytes]]
Eventually = Callable[[Callable[[], object]], None]

ZAP = "inproc://zeromq.zap.01"


def request(socket: zmq.Socket[bytes], domain: bytes, *rest: bytes) -> list[bytes]:
    """What libzmq sends for a client at the door; gives [status, text, user id, metadata]."""
    socket.send_multipart([b"1.0", b"7", domain, b"127.0.0.1", b"", *rest])
    assert socket.poll(10_000)
    version, number, *answer = socket.recv_multipart()
    assert (version, number) == (b"1.0", b"7")
    return answer


def test_what_the_authenticator_answers(context: Context) -> None:
    authenticator = Authenticator.of(context)
    assert Authenticator.of(context) is authenticator
    public, _ = zmq.curve_keypair()
    key = zmq.utils.z85.decode(public)
    authenticator.admit("line", [public.decode()])
    with structlog.testing.capture_logs() as logs, context.socket(zmq.REQ) as asker:
        asker.linger = 0
        asker.connect(ZAP)
        assert request(asker, b"line", b"CURVE", key) == [b"200", b"", public, b""]
        assert request(asker, b"other", b"CURVE", key)[0] == b"400"
        assert request(asker, b"line", b"NULL")[0] == b"400"
        assert request(asker, b"line", b"PLAIN", b"user", b"word")[0] == b"400"
        assert request(asker, b"line", b"CURVE", b"short")[0] == b"400"
        assert request(asker, b"line", b"CURVE", bytes(32))[0] == b"300"
        assert authenticator.refused == 5
        authenticator.forget("line")
        assert request(asker, b"line", b"CURVE", key)[0] == b"400"
        for _ in range(3):
            assert request(asker, b"other", b"CURVE", key)[0] == b"400"
    assert authenticator.refused == 9
    told = [(entry["domain"], entry["key"]) for entry in logs]
    assert len(told) == len(set(told)) == 4, "each key is named once per domain"


def test_noise_does_not_end_it(context: Context) -> None:
    Authenticator.of(context).admit("line", [])
    with context.socket(zmq.DEALER) as asker:
        asker.linger = 0
        asker.connect(ZAP)
        asker.send(b"noise")
        asker.send_multipart([b"", b"1.0", b"7"])
        asker.send_multipart([b"", b"1.0", b"8", b"line", b"", b"", b"CURVE", b"k", b"l"])
        assert asker.poll(10_000)
        assert asker.recv_multipart()[2:4] == [b"8", b"400"]


def test_one_that_waits_holds_up_nobody(context: Context) -> None:
    authenticator = Authenticator.of(context)
    public, _ = zmq.curve_keypair()
    authenticator.admit("line", [public.decode()])
    with context.socket(zmq.REQ) as waits, context.socket(zmq.REQ) as enters:
        for asker in (waits, enters):
            asker.linger = 0
            asker.connect(ZAP)
        waits.send_multipart([b"1.0", b"1", b"line", b"", b"", b"CURVE", bytes(32)])
        key = zmq.utils.z85.decode(public)
        assert request(enters, b"line", b"CURVE", key)[0] == b"200"
        assert waits.poll(0) == 0


def test_its_thread_ends_with_the_context(runtime: Path, eventually: Eventually) -> None:
    for _ in range(3):
        context: Context = zmq.Context()
        door = Door.open(Epoch(1, 1), 0, directory=runtime, keys=KeyPair.fresh(), context=context)
        thread = door.authenticator.thread
        assert thread in threading.enumerate()
        door.close()
        context.destroy(linger=0)
        eventually(lambda thread=thread: not thread.is_alive())


def test_a_secret_is_not_shown() -> None:
    keys = KeyPair.fresh()
    assert keys.public in repr(keys)
    assert keys.secret.decode() not in repr(keys) + str(keys)
    assert len(keys.public) == 40
    assert keys != KeyPair.fresh()


def test_the_same_thing_is_said_once_in_a_while() -> None:
    now = [0.0]
    sparing = Sparing(lambda: now[0])
    assert sparing.may_say("a")
    assert sparing.may_say("b")
    assert not sparing.may_say("a")
    now[0] = REPEAT_S
    assert sparing.may_say("a")
    said = sum(sparing.may_say(number) for number in range(10 * MAX_AT_ONCE))
    assert said == MAX_AT_ONCE - 1, "who makes up ever new things fills no log"
    now[0] = 2 * REPEAT_S
    assert sparing.may_say(0)
