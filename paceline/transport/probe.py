"""Measuring the network between nodes, over the transport that lines use: encrypted, admitted by
key. A node echoes what its peers send, and sounds one peer at a time itself."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
import structlog
import zmq

from paceline.transport.authenticator import Authenticator, fresh_domain
from paceline.transport.keys import KeyPair
from paceline.transport.sockets import (
    DRAIN_LIMIT,
    Context,
    Socket,
    bind_fresh,
    bound,
    connect,
    guard,
    ipc_path,
    made,
    mind,
    retire,
    unlock,
)
from paceline.types.errors import TransportError
from paceline.types.ids import NodeName
from paceline.types.links import DEFAULT_BYTES_PER_S, DEFAULT_ROUND_TRIP_S, Link, ProbeOffer

SMALL_BYTES = 64
BULK_BYTES = 2**18
TRIPS = 5
"""Small round trips of a sounding; the quickest counts, for the others met other work."""

EVERY_S = 30.0
GIVE_UP_S = 2.0
BAD_AFTER = 2
"""Soundings without an answer, after which an edge that worked is called bad."""
NEVER_AFTER = 5
"""The same for one that has never worked: peers learn of each other in any order."""

MESSAGES = 16
_TAG = 16

log = structlog.get_logger(__name__)


class Echo:
    """Sends back the beginning of whatever an admitted peer sends."""

    def __init__(self, socket: Socket, address: str, keys: KeyPair, domain: str) -> None:
        self.socket = socket
        self.offer = ProbeOffer(address=address, public_key=keys.public)
        self._authenticator = Authenticator.of(socket.context)
        self._domain = domain

    @classmethod
    def open(
        cls,
        keys: KeyPair,
        *,
        directory: Path | None = None,
        host: str | None = None,
        context: Context | None = None,
    ) -> Echo:
        """Bound, and closed to everyone until `admit`. Raises AddressUnusable."""
        context = context or zmq.Context.instance()
        domain = fresh_domain("probe")
        with made(context, zmq.ROUTER) as socket:
            bound(socket, messages=MESSAGES, message_bytes=2 * BULK_BYTES)
            guard(socket, keys, domain)
            if host is not None:
                mind(socket)
            socket.router_handover = True
            address = bind_fresh(socket, "probe", directory=directory, host=host)
        Authenticator.of(context).admit(domain, ())
        return cls(socket, address, keys, domain)

    def admit(self, public_keys: Iterable[str]) -> None:
        """Replaces the set of keys (Z85) that may connect."""
        self._authenticator.admit(self._domain, public_keys)

    def answer(self) -> None:
        """Echo what is there, up to a bound. Never waits; an answer that cannot go is dropped."""
        for _ in range(DRAIN_LIMIT):
            try:
                peer, payload = self.socket.recv_multipart(zmq.NOBLOCK)
                self.socket.send_multipart([peer, payload[:_TAG]], zmq.NOBLOCK)
            except zmq.Again:
                return
            except (zmq.ZMQError, ValueError):
                continue

    def close(self) -> None:
        """Safe to repeat."""
        self._authenticator.forget(self._domain)
        retire(self.socket, self.offer.address)


class _Sounding(msgspec.Struct, kw_only=True):
    """One measurement under way: small round trips, then a large message and its short answer."""

    began_at: float
    sent_at: float
    tag: bytes
    trips_s: list[float] = []

    @property
    def is_bulk(self) -> bool:
        return len(self.trips_s) == TRIPS


class _Peer:
    def __init__(self, offer: ProbeOffer, socket: Socket) -> None:
        self.offer = offer
        self.socket = socket
        self.due_at = 0.0
        self.failures = 0
        self.is_measured = False
        self.round_trip_s = DEFAULT_ROUND_TRIP_S
        self.bytes_per_s = DEFAULT_BYTES_PER_S

    @property
    def is_bad(self) -> bool:
        return self.failures >= (BAD_AFTER if self.is_measured else NEVER_AFTER)


class Sounder:
    """Measures the links from one node to its peers. Times are monotonic seconds, given by the
    caller, who polls `sockets` and calls `tick` when one of them is readable and now and then."""

    def __init__(self, node: NodeName, keys: KeyPair, context: Context | None = None) -> None:
        self._node = node
        self._keys = keys
        self._context = context or zmq.Context.instance()
        self._peers: dict[NodeName, _Peer] = {}
        self._current: tuple[NodeName, _Sounding] | None = None

    @property
    def sockets(self) -> Iterator[Socket]:
        return (peer.socket for peer in self._peers.values())

    @property
    def links(self) -> tuple[Link, ...]:
        """What was measured last; an edge that nothing is known of yet is left out."""
        return tuple(
            Link(
                a=self._node,
                b=name,
                round_trip_s=peer.round_trip_s,
                bytes_per_s=peer.bytes_per_s,
                bad=peer.is_bad,
            )
            for name, peer in self._peers.items()
            if peer.is_measured or peer.is_bad
        )

    def meet(self, offers: Mapping[NodeName, ProbeOffer]) -> None:
        """Who there is to measure, from now on."""
        for name in [name for name in self._peers if offers.get(name) != self._peers[name].offer]:
            self._peers.pop(name).socket.close(linger=0)
            if self._current and self._current[0] == name:
                self._current = None
        for name, offer in offers.items():
            if name not in self._peers and name != self._node:
                self._dial(name, offer)

    def tick(self, now: float) -> None:
        """Take what came, give up what did not, begin the next sounding."""
        for name, peer in self._peers.items():
            self._take(name, peer, now)
        if self._current is not None:
            name, sounding = self._current
            if now - sounding.sent_at > GIVE_UP_S:
                self._fail(self._peers[name], now)
        if self._current is None:
            self._begin(now)

    def close(self) -> None:
        for peer in self._peers.values():
            peer.socket.close(linger=0)
        self._peers.clear()
        self._current = None

    def _dial(self, name: NodeName, offer: ProbeOffer) -> None:
        try:
            with made(self._context, zmq.DEALER) as socket:
                bound(socket, messages=MESSAGES, message_bytes=2 * BULK_BYTES)
                if ipc_path(offer.address) is None:
                    mind(socket)
                unlock(socket, self._keys, offer.public_key)
                connect(socket, offer.address)
        except TransportError as error:
            log.warning("a peer cannot be measured", peer=name, reason=str(error))
            return
        self._peers[name] = _Peer(offer, socket)

    def _begin(self, now: float) -> None:
        """With whom it is due longest."""
        due = [(peer.due_at, name) for name, peer in self._peers.items() if peer.due_at <= now]
        if due:
            _, name = min(due)
            sounding = _Sounding(began_at=now, sent_at=now, tag=b"", trips_s=[])
            self._current = (name, sounding)
            self._send(self._peers[name], sounding, now)

    def _send(self, peer: _Peer, sounding: _Sounding, now: float) -> None:
        sounding.tag, sounding.sent_at = secrets.token_bytes(_TAG), now
        size = BULK_BYTES if sounding.is_bulk else SMALL_BYTES
        try:
            peer.socket.send(sounding.tag.ljust(size, b"\0"), zmq.NOBLOCK)
        except zmq.Again:
            if now - sounding.began_at > GIVE_UP_S:
                self._fail(peer, now)
            # Not connected yet: the tag that nobody got is given up after its time.

    def _take(self, name: NodeName, peer: _Peer, now: float) -> None:
        for _ in range(DRAIN_LIMIT):
            try:
                tag = peer.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            if self._current and self._current[0] == name and self._current[1].tag == tag:
                self._came_back(peer, self._current[1], now)

    def _came_back(self, peer: _Peer, sounding: _Sounding, now: float) -> None:
        took_s = max(now - sounding.sent_at, 1e-9)
        if not sounding.is_bulk:
            sounding.trips_s.append(took_s)
            self._send(peer, sounding, now)
            return
        trip_s = min(sounding.trips_s)
        peer.is_measured, peer.round_trip_s = True, trip_s
        # Less the way itself; where that was slower than the bulk, it met other work.
        peer.bytes_per_s = BULK_BYTES / max(took_s - trip_s, took_s / 10)
        peer.failures, peer.due_at, self._current = 0, now + EVERY_S, None

    def _fail(self, peer: _Peer, now: float) -> None:
        """A silent edge is looked at more often than one that works."""
        peer.failures += 1
        peer.due_at, self._current = now + GIVE_UP_S, None
