"""Two ranks of one epoch in one process, and what drives them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import zmq
from msgspec.structs import replace

from paceline.transport.door import Door
from paceline.transport.errors import LinkFull
from paceline.transport.frames import Body, Frame, Tensor
from paceline.transport.keys import KeyPair
from paceline.transport.link import LINK_MESSAGES, Link
from paceline.types.facts import LinkOffer
from paceline.types.ids import Epoch

EPOCH = Epoch(3, 7)
DEADLINE_S = 10.0


def offer_of(door: Door, keys: KeyPair) -> LinkOffer:
    return LinkOffer(epoch=door.epoch, rank=door.rank, address=door.address, public_key=keys.public)


@dataclass
class Pair:
    """Rank 0 connects, rank 1 accepts."""

    up: Link
    down: Link
    door: Door
    up_key: str
    server_key: str
    """Of the door."""

    def tick(self) -> None:
        now = time.monotonic()
        for link in (self.up, self.down):
            link.tick(now)

    def establish(self) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not (self.up.established and self.down.established):
            now = time.monotonic()
            assert now < deadline, "the hellos never went both ways"
            self.tick()
            assert self.up.receive(now) is None
            assert self.down.receive(now) is None
            time.sleep(0.002)


@contextmanager
def opened(
    context: zmq.Context[zmq.Socket[bytes]],
    directory: Path | None,
    host: str | None = None,
    messages: int = LINK_MESSAGES,
    epoch: Epoch = EPOCH,
    through: Callable[[str], str] = lambda address: address,
) -> Iterator[Pair]:
    """`through`: where rank 0 connects in place of the door's address, to come there as well."""
    mine, theirs = KeyPair.fresh(), KeyPair.fresh()
    with ExitStack() as stack:
        door = stack.enter_context(
            Door.open(
                epoch,
                1,
                directory=directory,
                host=host,
                keys=theirs,
                messages=messages,
                context=context,
            )
        )
        door.admit([mine.public])
        down = door.accept(0)
        offer = replace(offer_of(door, theirs), address=through(door.address))
        up = stack.enter_context(
            Link.connect(offer, rank=0, keys=mine, messages=messages, context=context)
        )
        yield Pair(up, down, door, mine.public, theirs.public)


def next_frame(link: Link, keep: Callable[[], None] = lambda: None) -> Frame:
    """The next frame of a link that something is on its way to."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        now = time.monotonic()
        assert now < deadline, "no frame came"
        keep()
        frame = link.receive(now)
        if frame is not None:
            return frame
        link.socket.poll(20)


def fill(link: Link, body: Body, tensor: Tensor) -> int:
    """Send until the link takes no more, and give how many it took."""
    for sent in range(1000):
        try:
            link.send(body, tensor, time.monotonic())
        except LinkFull:
            return sent
        time.sleep(0.001)
    raise AssertionError("the link took everything")


def read_on(link: Link) -> None:
    """Read until the link breaks."""
    while True:
        next_frame(link)
