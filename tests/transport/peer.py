"""Rank 1 as a process of its own: sends back what it gets, until its standard input ends.

Arguments: directory, public key of rank 0. Prints its offer as one line of JSON.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import zmq

from paceline.transport.door import Door
from paceline.transport.keys import KeyPair
from paceline.types.step import Sampled, Step
from tests.transport.ring import EPOCH, offer_of


def main() -> None:
    directory, neighbour = Path(sys.argv[1]), sys.argv[2]
    keys = KeyPair.fresh()
    with Door.open(EPOCH, 1, directory=directory, keys=keys) as door:
        door.admit([neighbour])
        link = door.accept(0)
        poller = zmq.Poller()
        poller.register(link.socket, zmq.POLLIN)
        poller.register(sys.stdin.fileno(), zmq.POLLIN)
        print(msgspec.json.encode(offer_of(door, keys)).decode(), flush=True)
        while sys.stdin.fileno() not in dict(poller.poll(50)):
            now = time.monotonic()
            link.tick(now)
            while (frame := link.receive(now)) is not None:
                assert isinstance(frame.body, Step)
                link.send(Sampled(number=frame.body.number), frame.tensor, now)


if __name__ == "__main__":
    main()
