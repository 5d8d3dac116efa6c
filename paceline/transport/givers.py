"""The nodes that have chunks of one checkpoint, asked over their depots."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import cast

import msgspec
import structlog
import zmq

from paceline.checkpoint.chunks import MOST_BYTES
from paceline.checkpoint.manifest import Manifest, trusted_manifest
from paceline.checkpoint.partial import WrongBytes
from paceline.transport.depot import (
    CHUNK_GONE_MS,
    LEAST_BYTES_PER_S,
    MESSAGES,
    SILENCE_S,
    Answer,
    Give,
    Given,
    Question,
    Show,
    Shown,
)
from paceline.transport.errors import UNREADABLE, NobodyGives
from paceline.transport.haul import Haul, Ref
from paceline.transport.keys import KeyPair
from paceline.transport.sockets import (
    DRAIN_LIMIT,
    Context,
    Socket,
    bound,
    connect,
    ipc_path,
    made,
    mind,
    unlock,
)
from paceline.types.errors import CheckpointError, TransportError
from paceline.types.weights import Source

SHOW_S = 5.0
"""How long is waited for the first word of a peer while nobody else has what is wanted."""
TURN_MS = 100
MAX_ANSWER_BYTES = 64 << 20

Keep = Callable[[int, int, bytes], None]
"""Takes a chunk of a file. Raises WrongBytes if it is not the one; what else it raises ends all."""
OnTurn = Callable[[], None]
"""Called several times a second; what it raises ends the haul."""

log = structlog.get_logger(__name__)

_encoder = msgspec.msgpack.Encoder()


class _Unfit(Exception):
    """The peer is not to be asked any more; the message says why."""


class Givers:
    """For one thread; a context manager. Every wait ends: with the chunks, or with NobodyGives."""

    def __init__(
        self,
        digest: str,
        sources: Sequence[Source],
        keys: KeyPair,
        *,
        silence_s: float = SILENCE_S,
        context: Context | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keys`: the ones that prove a member of the cluster."""
        self.digest = digest
        self.manifest: Manifest | None = None
        """Once a peer has shown the right one."""
        self._haul = Haul(silence_s + MOST_BYTES / LEAST_BYTES_PER_S)
        self._silence_s = silence_s
        self._clock = clock
        self._asked_at = clock()
        self._sockets: dict[str, Socket] = {}
        self._poller = zmq.Poller()
        self._decoder = msgspec.msgpack.Decoder(Answer)
        for source in sources:
            self._dial(source, keys, context or zmq.Context.instance())

    def __enter__(self) -> Givers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for socket in self._sockets.values():
            socket.close(linger=0)
        self._sockets.clear()

    @property
    def names(self) -> tuple[str, ...]:
        """Nodes that chunks come from."""
        return self._haul.peers

    def meet(self, on_turn: OnTurn) -> Manifest:
        """The manifest, as soon as a peer shows it. Raises NobodyGives."""
        while self.manifest is None:
            on_turn()
            self._turn(_refuse)
            if self.manifest is None and not self._is_hopeful():
                raise NobodyGives(self._why_none())
        return self.manifest

    def bring(self, refs: Iterable[Ref], keep: Keep, on_turn: OnTurn) -> None:
        """Have all of these kept. Raises NobodyGives when nobody who has them answers, and
        whatever `keep` and `on_turn` raise."""
        self._haul.want(refs)
        while not self._haul.done:
            on_turn()
            for peer, (file, chunk) in self._haul.ask(self._clock()):
                self._put(peer, Give(self.digest, file, chunk))
            self._turn(keep)
            if not self._is_hopeful() and (lost := self._haul.unobtainable()):
                raise NobodyGives(f"{len(lost)} chunks cannot be had: {self._why_none()}")

    def _dial(self, source: Source, keys: KeyPair, context: Context) -> None:
        try:
            with made(context, zmq.DEALER) as socket:
                bound(socket, messages=MESSAGES, message_bytes=MAX_ANSWER_BYTES)
                # A question may be handed over before the handshake is done.
                socket.immediate = False
                if ipc_path(source.depot.address) is None:
                    mind(socket, CHUNK_GONE_MS)
                unlock(socket, keys, source.depot.public_key)
                connect(socket, source.depot.address)
        except TransportError as error:
            self._strike(source.node, str(error))
            return
        self._sockets[source.node] = socket
        self._poller.register(socket, zmq.POLLIN)
        self._put(source.node, Show(self.digest))

    def _put(self, peer: str, question: Question) -> None:
        """One that finds no room is not answered, and the peer then counts as silent."""
        socket = self._sockets.get(peer)
        if socket is not None and socket.poll(0, zmq.POLLOUT):
            socket.send(_encoder.encode(question), zmq.NOBLOCK)

    def _turn(self, keep: Keep) -> None:
        ready = dict(self._poller.poll(TURN_MS))
        for peer, socket in tuple(self._sockets.items()):
            if socket in ready:
                self._take_all(peer, socket, keep)
        for peer in self._haul.tick(self._clock()):
            log.warning("peer silent", peer=peer, digest=self.digest)
            # It may have been started again since, and have more or less than before.
            self._put(peer, Show(self.digest))

    def _take_all(self, peer: str, socket: Socket, keep: Keep) -> None:
        for _ in range(DRAIN_LIMIT):
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._take(peer, parts, keep)
            except (*UNREADABLE, WrongBytes, _Unfit) as error:
                self._strike(peer, str(error))
                return

    def _take(self, peer: str, parts: list[bytes], keep: Keep) -> None:
        answer = cast(Answer, self._decoder.decode(parts[0]))
        now = self._clock()
        match answer:
            case Shown(digest=self.digest) if answer.manifest:
                self._learn(peer, answer, now)
            case Shown(digest=self.digest):
                raise _Unfit("it has nothing of the checkpoint")
            case Given(self.digest, file, chunk) if len(parts) == 2:
                if self._haul.wants((file, chunk)):
                    keep(file, chunk, parts[1])
                self._haul.came(peer, (file, chunk), now)
            case Given(self.digest, file, chunk):
                self._haul.lacks(peer, (file, chunk), now)
            case _:
                raise _Unfit("it answers what it was not asked")

    def _learn(self, peer: str, shown: Shown, now: float) -> None:
        if self.manifest is None:
            try:
                self.manifest = trusted_manifest(shown.manifest, self.digest)
            except CheckpointError as error:
                raise _Unfit(str(error)) from error
            largest = max((file.chunk_bytes for file in self.manifest.files), default=0)
            self._haul.patience_s = self._silence_s + largest / LEAST_BYTES_PER_S
        self._haul.enter(peer, shown.held, now)

    def _strike(self, peer: str, why: str) -> None:
        log.warning("peer not asked any more", peer=peer, digest=self.digest, reason=why)
        self._haul.strike(peer, why)
        socket = self._sockets.pop(peer, None)
        if socket is not None:
            self._poller.unregister(socket)
            socket.close(linger=0)

    def _is_hopeful(self) -> bool:
        """Whether somebody may still have a first word to say."""
        unheard = set(self._sockets) - set(self._haul.peers)
        return bool(unheard) and self._clock() - self._asked_at < SHOW_S

    def _why_none(self) -> str:
        said = {peer: "it does not answer" for peer in self._sockets}
        said |= {peer: "it has not all of them" for peer in self._haul.peers}
        said |= self._haul.gone
        return "; ".join(f"{peer}: {why}" for peer, why in sorted(said.items()))


def _refuse(file: int, chunk: int, data: bytes) -> None:
    raise WrongBytes("it sends a chunk that nobody asked for")
