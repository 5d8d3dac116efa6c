"""A rank's sockets in one epoch: its door, the links to both neighbours and, on rank 0, the front
door for gateways. Fresh keys and addresses each time; a socket that broke is never used again."""

from __future__ import annotations

from pathlib import Path

import structlog
import zmq

from paceline.transport.door import Door
from paceline.transport.errors import LinkBroken
from paceline.transport.frames import Body, Frame, Tensor
from paceline.transport.front import FrontServer
from paceline.transport.keys import KeyPair
from paceline.transport.link import Link
from paceline.types.control import Line as LineOrder
from paceline.types.facts import LineHealth, LinkOffer
from paceline.types.tasks import Connect

SILENCE_S = 3.0
"""A neighbour that said nothing for so long is lost, whatever its socket believes."""

STALL_S = 1.0
"""If our own loop stood still for so long, silence is ours until we have listened again."""

log = structlog.get_logger("line")


class Line:
    """What one rank has of its line. Entered by the I/O thread alone."""

    def __init__(
        self,
        task: Connect,
        now: float,
        *,
        directory: Path | None = None,
        host: str | None = None,
        kv_generation: str = "",
    ) -> None:
        """Its doors are in `directory` where all ranks are on this machine, else at `host`."""
        self.epoch = task.epoch
        self.rank = task.seat.rank
        self.world_size = task.world_size
        self.front: FrontServer | None = None
        self.steps = 0
        self._kv_generation = kv_generation
        self._offers: tuple[LinkOffer, ...] = ()
        self._keys = KeyPair.fresh()
        self._door: Door | None = None
        self._upstream: Link | None = None
        self._downstream: Link | None = None
        self._last_tick = now
        try:
            if self.world_size > 1:
                self._door = Door.open(
                    self.epoch, self.rank, directory=directory, host=host, keys=self._keys
                )
            if self.rank == 0:
                self.front = FrontServer.open(
                    self.epoch, directory=directory, host=host, keys=self._keys
                )
        except BaseException:
            self.close()
            raise

    @property
    def offer(self) -> LinkOffer:
        return LinkOffer(
            epoch=self.epoch,
            rank=self.rank,
            address=self._door.address if self._door else "",
            public_key=self._keys.public,
            front_address=self.front.address if self.front else None,
            kv_generation=self._kv_generation,
        )

    def meet(self, order: LineOrder) -> None:
        """Learn who the neighbours and the gateways are; what is known already stays."""
        self._offers = order.offers
        if self.front is not None:
            self.front.admit(order.gateway_keys)
        offers = {offer.rank: offer for offer in order.offers}
        if self._door is None or self._downstream is not None or len(offers) < self.world_size:
            return
        before = offers[(self.rank - 1) % self.world_size]
        after = offers[(self.rank + 1) % self.world_size]
        self._door.admit([before.public_key])
        self._upstream = self._door.accept(before.rank)
        self._downstream = Link.connect(after, rank=self.rank, keys=self._keys)

    @property
    def driver_key(self) -> str:
        """No other line ever has it. Known once this one has met."""
        theirs = (offer.public_key for offer in self._offers if offer.rank == 0)
        return self._keys.public if self.rank == 0 else next(theirs, "")

    @property
    def kv_generations(self) -> frozenset[str]:
        """Of all ranks, as they joined."""
        return frozenset((self._kv_generation, *(o.kv_generation for o in self._offers)))

    @property
    def established(self) -> bool:
        if self.world_size == 1:
            return True
        links = (self._upstream, self._downstream)
        return all(link is not None and link.established for link in links)

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        ends = (self._upstream, self._downstream, self.front)
        return [end.socket for end in ends if end is not None]

    def send(self, body: Body, tensor: Tensor | None, now: float) -> None:
        """To the next rank. Raises LinkFull or LinkBroken."""
        if self._downstream is None:
            raise LinkBroken("the line has not met yet")
        self._downstream.send(body, tensor, now)

    def receive(self, now: float) -> Frame | None:
        """The next frame from the rank before, if one is there. Raises LinkBroken."""
        frame = self._upstream.receive(now) if self._upstream is not None else None
        if frame is None and self._downstream is not None:
            self._downstream.receive(now)  # nothing but hellos and beats comes up the line
        return frame

    def tick(self, now: float) -> None:
        """Hellos and beats. Raises LinkBroken when a neighbour has been silent too long."""
        stalled = now - self._last_tick > STALL_S
        self._last_tick = now
        for link, who in ((self._upstream, -1), (self._downstream, 1)):
            if link is None:
                continue
            link.tick(now)
            silence = link.silence(now)
            if silence is not None and silence > SILENCE_S and not stalled:
                neighbour = (self.rank + who) % self.world_size
                raise LinkBroken(f"rank {neighbour} has been silent for {silence:.1f} s")

    def health(self, now: float, broken: str = "") -> LineHealth:
        return LineHealth(
            upstream_silence_s=self._upstream.silence(now) if self._upstream else None,
            downstream_silence_s=self._downstream.silence(now) if self._downstream else None,
            steps=self.steps,
            broken=broken,
        )

    def close(self) -> None:
        for end in (self._upstream, self._downstream, self._door, self.front):
            if end is not None:
                end.close()
