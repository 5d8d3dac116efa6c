"""A node's depot: gives manifests and chunks of its checkpoints to members of its cluster.

One thread, which never waits for a peer: a queue that is full loses the answer, and whoever asked
asks elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, cast

import msgspec
import structlog
import zmq

from paceline.checkpoint.chunks import MOST_BYTES
from paceline.checkpoint.partial import Chunks
from paceline.transport.authenticator import Authenticator, fresh_domain
from paceline.transport.errors import UNREADABLE
from paceline.transport.haul import WINDOW
from paceline.transport.keys import KeyPair
from paceline.transport.sockets import (
    DRAIN_LIMIT,
    Context,
    Socket,
    bind_fresh,
    bound,
    guard,
    made,
    mind,
    retire,
)
from paceline.transport.sparing import Sparing
from paceline.types.weights import DepotOffer, HeldCheckpoint

MESSAGES = 2 * WINDOW
"""That wait for a peer: what a fetcher asks for at once, and as much again, for libzmq counts in
halves."""
UNDER_WAY_BYTES = 256 << 20
"""Of chunks that wait for all peers together."""
SILENCE_S = 5.0
LEAST_BYTES_PER_S = 512 << 10
"""How long a peer that was asked may say nothing: so long, and what a chunk takes at this pace."""
CHUNK_GONE_MS = round(1000 * (SILENCE_S + MOST_BYTES / LEAST_BYTES_PER_S))
"""Without a whole frame, after which a connection is given up: a chunk is one frame."""
MAX_QUESTION_BYTES = 4096
POLL_MS = 200
LOOK_S = 1.0
"""Between two looks at what there is to give."""

log = structlog.get_logger(__name__)


class Show(msgspec.Struct, frozen=True, array_like=True, tag="show"):
    """Which chunks are here of a checkpoint?"""

    digest: str


class Give(msgspec.Struct, frozen=True, array_like=True, tag="give"):
    """One chunk, please."""

    digest: str
    file: int
    chunk: int


class Shown(msgspec.Struct, frozen=True, array_like=True, tag="shown"):
    digest: str
    manifest: bytes
    """msgpack; empty where nothing of the checkpoint is here."""
    held: Chunks = {}


class Given(msgspec.Struct, frozen=True, array_like=True, tag="given"):
    """The chunk is the second part of the message; there is none if it is not here."""

    digest: str
    file: int
    chunk: int


Question = Show | Give
Answer = Shown | Given

_encoder = msgspec.msgpack.Encoder()


class Shelf(Protocol):
    """What there is to give."""

    def look(self) -> tuple[HeldCheckpoint, ...]: ...
    def show(self, digest: str) -> tuple[bytes, Chunks] | None: ...
    def chunk(self, digest: str, file: int, chunk: int) -> bytes | None: ...


class UnderWay:
    """Chunks that libzmq was given and has not sent yet."""

    def __init__(self) -> None:
        self._chunks: list[tuple[zmq.MessageTracker, int]] = []

    def add(self, tracker: zmq.MessageTracker, nbytes: int) -> None:
        self._chunks.append((tracker, nbytes))

    @property
    def nbytes(self) -> int:
        self._chunks = [each for each in self._chunks if not each[0].done]
        return sum(nbytes for _, nbytes in self._chunks)


class Depot:
    """Serves from `open` until `close`."""

    def __init__(self, socket: Socket, offer: DepotOffer, domain: str, shelf: Shelf) -> None:
        self.offer = offer
        self.checkpoints: tuple[HeldCheckpoint, ...] = ()
        """What was there at the last look."""
        self.given_bytes = 0
        self._socket = socket
        self._domain = domain
        self._shelf = shelf
        self._authenticator = Authenticator.of(socket.context)
        self._decoder = msgspec.msgpack.Decoder(Question)
        self._sparing = Sparing()
        self._under_way = UnderWay()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="depot", daemon=True)

    @classmethod
    def open(
        cls,
        keys: KeyPair,
        members: Iterable[str],
        shelf: Shelf,
        *,
        directory: Path | None = None,
        host: str | None = None,
        context: Context | None = None,
    ) -> Depot:
        """For those who prove a key (Z85) of `members`; nobody else gets a word. Give `directory`
        where all of them are on this machine, else `host`. Raises AddressUnusable."""
        context = context or zmq.Context.instance()
        domain = fresh_domain("depot")
        Authenticator.of(context).admit(domain, members)
        with made(context, zmq.ROUTER) as socket:
            bound(socket, messages=MESSAGES, message_bytes=MAX_QUESTION_BYTES)
            guard(socket, keys, domain)
            socket.router_mandatory = True
            if host is not None:
                mind(socket, CHUNK_GONE_MS)
            address = bind_fresh(socket, "depot", directory=directory, host=host)
        offer = DepotOffer(address=address, public_key=keys.public)
        depot = cls(socket, offer, domain, shelf)
        depot.checkpoints = shelf.look()
        depot._thread.start()
        return depot

    def close(self) -> None:
        """Safe to repeat."""
        self._closing.set()
        self._thread.join()
        self._authenticator.forget(self._domain)
        retire(self._socket, self.offer.address)

    def _serve(self) -> None:
        look_at = 0.0
        while not self._closing.is_set():
            try:
                if self._socket.poll(POLL_MS):
                    self._answer_all()
                if time.monotonic() >= look_at:
                    self.checkpoints = self._shelf.look()
                    look_at = time.monotonic() + LOOK_S
            except Exception:  # one question's trouble is never the others'
                log.exception("depot_failed")
                self._closing.wait(LOOK_S)

    def _answer_all(self) -> None:
        for _ in range(DRAIN_LIMIT):
            if self._closing.is_set():
                return
            try:
                peer, *payload = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            match self._read(payload):
                case Show(digest):
                    self._put(peer, self._shown(digest))
                case Give(digest, file, chunk) if self._under_way.nbytes < UNDER_WAY_BYTES:
                    data = self._shelf.chunk(digest, file, chunk)
                    self._put(peer, Given(digest, file, chunk), data)

    def _shown(self, digest: str) -> Shown:
        found = self._shelf.show(digest)
        return Shown(digest, *found) if found is not None else Shown(digest, b"")

    def _read(self, payload: list[bytes]) -> Question | None:
        try:
            (question,) = payload
            return cast(Question, self._decoder.decode(question))
        except (*UNREADABLE, ValueError) as error:
            if self._sparing.may_say(str(error)):
                log.warning("question not understood", reason=str(error))
            return None

    def _put(self, peer: bytes, answer: Answer, data: bytes | None = None) -> None:
        parts = [peer, _encoder.encode(answer), *([] if data is None else [data])]
        try:
            tracker = self._socket.send_multipart(parts, zmq.NOBLOCK, copy=False, track=True)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return
            raise
        if data is not None:
            self._under_way.add(cast(zmq.MessageTracker, tracker), len(data))
            self.given_bytes += len(data)
