"""Who may come in: answers libzmq's ZAP requests of one context.

Without a ZAP handler a CURVE server admits any key. This one admits, per domain, exactly the keys
it was told. A key that is not (yet) admitted waits a moment, since neighbours learn of each other
in any order; then it is refused in the way that lets an honest peer try again. Who never comes so
far as to prove a key, libzmq turns away by itself; the watch below counts that too.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue

import structlog
import zmq
from zmq.utils import z85

from paceline.transport.sparing import Sparing
from paceline.transport.watch import Socket, Watch

log = structlog.get_logger(__name__)

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
PATIENCE_S = 1.5
LOOK_AGAIN_MS = 10
MAX_PENDING = 64

NUDGE_MS = 1000
COUNT_AGAIN_MS = 500

ADMITTED = b"200"
TRY_AGAIN = b"300"
"""libzmq's client reconnects after 300; after 400 it never does."""
REFUSED = b"400"


@dataclass(frozen=True, slots=True)
class _Request:
    envelope: list[bytes]
    domain: str
    key: str
    deadline: float


@dataclass(frozen=True, slots=True)
class _Guests:
    keys: frozenset[str]
    final: bool


_NOBODY = _Guests(frozenset(), final=True)


class Authenticator:
    """One thread per context; it ends when the context is terminated. Safe from any thread."""

    _of_contexts: dict[int, Authenticator] = {}  # noqa: RUF012
    _registry = threading.Lock()
    _shown_out = 0
    """Strangers of all contexts, also of those that have ended."""

    @classmethod
    def strangers_here(cls) -> int:
        """Connections to any port of this process that came to nothing, since its start."""
        return cls._shown_out

    @classmethod
    def of(cls, context: zmq.Context[zmq.Socket[bytes]]) -> Authenticator:
        """The authenticator of this context, started on first use."""
        with cls._registry:
            found = cls._of_contexts.get(context.underlying)
            if found is None:
                found = cls._of_contexts[context.underlying] = cls(context)
            return found

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.refused = 0
        """Keys that were proved and not admitted."""
        self.strangers = 0
        """Connections that came to nothing: refused keys, no CURVE, nonsense, silence."""
        self._to_watch: SimpleQueue[Watch] = SimpleQueue()
        self._guests: dict[str, _Guests] = {}
        self._clock = clock
        self._sparing = Sparing(clock)
        self._underlying = context.underlying
        # A shadow, so that destroying the caller's context never closes this thread's socket.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(context.underlying)
        socket = self._context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.bind(ZAP_ENDPOINT)
        self.thread = threading.Thread(
            target=self._serve, args=(socket,), name="authenticator", daemon=True
        )
        self.thread.start()

    def admit(self, domain: str, public_keys: Iterable[str], *, final: bool = False) -> None:
        """From now on exactly these keys (Z85) get into `domain`; established connections stay.
        `final`: no others ever will, so a stranger is refused at once and for good."""
        self._guests[domain] = _Guests(frozenset(public_keys), final)

    def admits(self, domain: str, public_key: str) -> bool:
        return public_key in self._guests.get(domain, _NOBODY).keys

    def forget(self, domain: str) -> None:
        self._guests.pop(domain, None)

    def watch(self, socket: Socket, domain: str) -> None:
        """Counts the strangers at a server's socket, until it is closed."""
        self._to_watch.put(Watch(self._context, socket, domain))
        with self._context.socket(zmq.DEALER) as nudge:
            nudge.linger = NUDGE_MS
            nudge.connect(ZAP_ENDPOINT)
            nudge.send(b"")

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        pending: list[_Request] = []
        watches: dict[Socket, Watch] = {}
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        try:
            while True:
                if dict(poller.poll(self._patience_ms(pending, watches))).get(socket):
                    self._take(socket.recv_multipart(), pending, socket)
                pending = [request for request in pending if not self._settle(request, socket)]
                self._look_after(watches, poller)
        except zmq.ContextTerminated:
            pass
        finally:
            with self._registry:
                self._of_contexts.pop(self._underlying, None)
            while not self._to_watch.empty():
                self._to_watch.get().events.close()
            for one in (*watches, socket):
                one.close(linger=0)

    def _patience_ms(self, pending: list[_Request], watches: Mapping[Socket, Watch]) -> int | None:
        if pending:
            return LOOK_AGAIN_MS
        return COUNT_AGAIN_MS if any(watch.is_unsettled for watch in watches.values()) else None

    def _look_after(self, watches: dict[Socket, Watch], poller: zmq.Poller) -> None:
        while not self._to_watch.empty():
            watch = self._to_watch.get()
            watches[watch.events] = watch
            poller.register(watch.events, zmq.POLLIN)
        for watch in list(watches.values()):
            came = watch.look(self._clock())
            if came:
                self._count(came, watch.domain)
            if watch.has_ended:
                poller.unregister(watch.events)
                watches.pop(watch.events).events.close()

    def _count(self, came: int, domain: str) -> None:
        self.strangers += came
        with self._registry:
            Authenticator._shown_out += came
        if self._sparing.may_say(domain):
            log.warning("a stranger was shown out", domain=domain, count=self.strangers)

    def _take(
        self, message: list[bytes], pending: list[_Request], socket: zmq.Socket[bytes]
    ) -> None:
        request = _read(message, self._clock() + PATIENCE_S)
        if request is None:
            return
        if self.admits(request.domain, request.key):
            _answer(socket, request, ADMITTED, request.key)
        elif not request.key or self._guests.get(request.domain, _NOBODY).final:
            self._refuse(request, REFUSED, socket)
        elif len(pending) >= MAX_PENDING:
            # Never for good: it may be a neighbour that strangers leave no place to wait.
            self._refuse(request, TRY_AGAIN, socket)
        else:
            pending.append(request)

    def _settle(self, request: _Request, socket: zmq.Socket[bytes]) -> bool:
        """Answer if there is an answer yet."""
        if self.admits(request.domain, request.key):
            _answer(socket, request, ADMITTED, request.key)
            return True
        if self._clock() < request.deadline:
            return False
        self._refuse(request, TRY_AGAIN, socket)
        return True

    def _refuse(self, request: _Request, status: bytes, socket: zmq.Socket[bytes]) -> None:
        self.refused += 1
        _answer(socket, request, status, "")
        if self._sparing.may_say((request.domain, request.key)):
            log.warning("key refused", domain=request.domain, key=request.key, count=self.refused)


def fresh_domain(name: str) -> str:
    """A domain for one socket alone."""
    return f"{name}-{secrets.token_hex(4)}"


def _read(message: list[bytes], deadline: float) -> _Request | None:
    """[peer, "", version, request id, domain, address, identity, mechanism, credentials…]

    The key is empty where the peer proved none.
    """
    if len(message) < 8:
        return None
    mechanism, credentials = message[7], message[8:]
    curve = mechanism == b"CURVE" and len(credentials) == 1 and len(credentials[0]) == 32
    key = z85.encode(credentials[0]).decode("ascii") if curve else ""
    return _Request(message[:4], message[4].decode("utf-8", "replace"), key, deadline)


def _answer(socket: zmq.Socket[bytes], request: _Request, status: bytes, user: str) -> None:
    socket.send_multipart([*request.envelope, status, b"", user.encode("ascii"), b""])
