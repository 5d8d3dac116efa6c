"""What comes to a server's socket and does not get in, as far as libzmq tells.

It tells of connections that were accepted, of handshakes that succeeded, though not whose, and of
connections that ended. Since a connection is closed when it has not succeeded in HANDSHAKE_S, all
that are open and older have: so strangers are the accepted less the successes, less at most those
that are open and young. Never too many are counted, and none is missed for long.
"""

from __future__ import annotations

import zmq
from zmq.utils.monitor import parse_monitor_message

HANDSHAKE_S = 3.0
"""A handshake that takes longer is closed by the server, and tried again by the client."""
SLACK_S = 0.5

Socket = zmq.Socket[bytes]

_EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_MONITOR_STOPPED
)


class Watch:
    """Of one socket. Made by its owner; from then on another thread's."""

    def __init__(self, context: zmq.Context[Socket], socket: Socket, domain: str) -> None:
        self.domain = domain
        self.has_ended = False
        """The socket was closed."""
        self._unproved = 0
        """Accepted, less the successes."""
        self._strangers = 0
        self._young: dict[int, float] = {}
        """When those that are open were accepted, by file descriptor."""
        address = f"inproc://watch-{domain}"
        socket.monitor(address, _EVENTS)
        self.events = context.socket(zmq.PAIR)
        self.events.linger = 0
        # A queue that is full would have libzmq's own thread wait for ours.
        self.events.rcvhwm = 0
        self.events.connect(address)

    @property
    def is_unsettled(self) -> bool:
        """Whether time alone may make strangers of some."""
        return self._unproved > self._strangers

    def look(self, now: float) -> int:
        """Takes what was told; gives how many strangers there are more than before."""
        while not self.has_ended and self.events.poll(0):
            event = parse_monitor_message(self.events.recv_multipart())
            self._take(event["event"], event["value"], now)
        oldest = now - HANDSHAKE_S - SLACK_S
        self._young = {fd: at for fd, at in self._young.items() if at > oldest}
        came = max(0, self._unproved - len(self._young) - self._strangers)
        self._strangers += came
        return came

    def _take(self, kind: int, value: int, now: float) -> None:
        match kind:
            case zmq.EVENT_ACCEPTED:
                self._unproved += 1
                self._young[value] = now
            case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._unproved -= 1
            case zmq.EVENT_DISCONNECTED:
                self._young.pop(value, None)
            case zmq.EVENT_MONITOR_STOPPED:
                self.has_ended = True
