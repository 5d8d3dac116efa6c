"""One neighbour in one epoch: frames in both directions, or a reason why there are none.

Not for use by several threads. Clocks are arguments: `now` is monotonic seconds.
"""

from __future__ import annotations

import zmq

from paceline.transport.errors import FrameDamaged, LinkBroken, LinkFull
from paceline.transport.frames import Beat, Body, Buffer, Frame, Hello, Tensor, decode, encode
from paceline.transport.keys import KeyPair
from paceline.transport.sockets import (
    DRAIN_LIMIT,
    Context,
    Socket,
    bound,
    connect,
    has_message,
    made,
    receive_parts,
    send_parts,
    unlock,
)
from paceline.types.facts import LinkOffer
from paceline.types.ids import Epoch

LINK_MESSAGES = 32
"""Frames that wait on either side. libzmq counts in halves: at least 16 always find room, which
is a little over the batches in flight."""
MAX_FRAME_BYTES = 128 * 2**20
BEAT_S = 0.25
HELLO_S = 0.05


class Link:
    """Made by `Door.accept` for the neighbour upstream, by `Link.connect` for the one downstream.

    Sequence numbers start at 1 with the first frame that is no hello; a lost, repeated or foreign
    frame breaks the link. Once broken, every call raises LinkBroken with the same reason.
    """

    def __init__(
        self, socket: Socket, epoch: Epoch, rank: int, peer_rank: int, beat_s: float = BEAT_S
    ) -> None:
        self.socket = socket
        self.epoch = epoch
        self.rank = rank
        self.peer_rank = peer_rank
        self.broken = ""
        """Why the link is of no more use; empty while it is."""
        self._beat_s = beat_s
        self._sent = 0
        self._received = 0
        self._heard_hello = False
        self._peer_heard = False
        self._heard_at: float | None = None
        self._spoke_at: float | None = None

    @classmethod
    def connect(
        cls,
        offer: LinkOffer,
        *,
        rank: int,
        keys: KeyPair,
        messages: int = LINK_MESSAGES,
        beat_s: float = BEAT_S,
        context: Context | None = None,
    ) -> Link:
        """A link to the door of `offer`, from the rank that holds `keys`.

        Returns at once; the connection is made in the background, and again until `close`.
        Raises AddressUnusable for an offer that is none.
        """
        with made(context or zmq.Context.instance(), zmq.DEALER) as socket:
            bound(socket, messages=messages, message_bytes=MAX_FRAME_BYTES)
            unlock(socket, keys, offer.public_key)
            connect(socket, offer.address)
        return cls(socket, offer.epoch, rank, offer.rank, beat_s)

    @property
    def established(self) -> bool:
        """Hellos went both ways, and both ends know it: `send` may be used."""
        return self._heard_hello and self._peer_heard and not self.broken

    def silence(self, now: float) -> float | None:
        """Seconds since anything came from the neighbour; None before its first word.

        Call `receive` until it gives None first: what waits in the socket has been said.
        """
        return None if self._heard_at is None else max(0.0, now - self._heard_at)

    def send(self, body: Body, tensor: Tensor | None, now: float) -> None:
        """Hand one frame to the socket; its bytes are copied, the caller's buffer is free again.

        Raises LinkFull (nothing was sent; try later) or LinkBroken. Never waits.
        """
        self._check()
        if not self.established:
            raise LinkFull(f"the link to rank {self.peer_rank} is not established yet")
        if not self._put(body, tensor, now):
            why = "it has left the line, or its queue is full"
            raise LinkFull(f"rank {self.peer_rank} does not take frames: {why}")

    def receive(self, now: float) -> Frame | None:
        """The next frame for the caller, or None. Hellos and beats are dealt with here.

        Raises LinkBroken. Never waits.
        """
        self._check()
        for _ in range(DRAIN_LIMIT):
            try:
                if not has_message(self.socket):
                    return None
                parts = receive_parts(self.socket)
            except zmq.ZMQError as error:
                raise self._break(f"its socket failed: {error.strerror}") from error
            frame = self._accept([part.buffer for part in parts])
            self._heard_at = now
            if isinstance(frame.body, Hello):
                self._hello(frame.body, now)
            elif not isinstance(frame.body, Beat):
                return frame
        return None

    def tick(self, now: float) -> None:
        """Say hello until both ends have heard each other, then beat where nothing else was sent.

        Call it several times per beat. What the socket does not take is not said: a full queue
        needs no beat.
        """
        self._check()
        quiet = now - self._spoke_at if self._spoke_at is not None else float("inf")
        if self.established:
            if quiet >= self._beat_s:
                self._put(Beat(), None, now)
        elif quiet >= HELLO_S:
            self._put(self._own_hello(), None, now)

    def close(self) -> None:
        self.socket.close(linger=0)
        self.broken = self.broken or "it was closed"

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _own_hello(self) -> Hello:
        return Hello(self.rank, self._heard_hello, self.established)

    def _hello(self, hello: Hello, now: float) -> None:
        """Each answer says more than what it answers, so two ends never answer for ever."""
        if hello.rank != self.peer_rank:
            raise self._break(f"rank {hello.rank} is there")
        self._heard_hello = True
        self._peer_heard = self._peer_heard or hello.heard
        if not hello.established:
            self._put(self._own_hello(), None, now)

    def _accept(self, parts: list[Buffer]) -> Frame:
        """The frame, if it is the one that comes next."""
        try:
            frame = decode(parts)
        except FrameDamaged as error:
            raise self._break(str(error)) from error
        if frame.epoch != self.epoch:
            age = "an older" if frame.epoch < self.epoch else "a newer"
            raise self._break(f"it sent a frame of {age} epoch, {frame.epoch}")
        if isinstance(frame.body, Hello):
            return frame
        expected = self._received + 1
        if frame.sequence != expected:
            what = "repeated" if frame.sequence < expected else "lost"
            raise self._break(f"a frame was {what}: {frame.sequence} came, {expected} was next")
        self._received = expected
        # A peer sends these only once it knows that we heard its hello, and it ours.
        self._peer_heard = True
        return frame

    def _put(self, body: Body, tensor: Tensor | None, now: float) -> bool:
        """Whether the socket took it; only then is its number used up."""
        sequence = 0 if isinstance(body, Hello) else self._sent + 1
        parts = encode(Frame(self.epoch, sequence, body, tensor))
        if sum(map(len, parts)) > MAX_FRAME_BYTES:
            raise FrameDamaged(f"a frame of more than {MAX_FRAME_BYTES} bytes does not travel")
        try:
            send_parts(self.socket, parts)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            raise self._break(f"its socket failed: {error.strerror}") from error
        self._sent = max(self._sent, sequence)
        self._spoke_at = now
        return True

    def _check(self) -> None:
        if self.broken:
            raise LinkBroken(self.broken)

    def _break(self, reason: str) -> LinkBroken:
        self.broken = f"link of epoch {self.epoch} to rank {self.peer_rank}: {reason}"
        return LinkBroken(self.broken)
