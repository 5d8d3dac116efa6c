"""The joiner's side of the handshake: one question to the head, and a clear word if it says no.

A wrong token is found out before anything is sent: CURVE has the head prove its key first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import msgspec
import zmq
from msgspec.structs import replace
from zmq.utils.monitor import recv_monitor_message

from paceline.transport.answers import error_of
from paceline.transport.control import ControlClient
from paceline.transport.membership import Membership
from paceline.transport.sockets import Context, Socket
from paceline.types.control import Answer, Ask, ToGateway
from paceline.types.errors import (
    DeadlineExceeded,
    InvalidRequest,
    PacelineError,
    Settling,
    Unavailable,
)
from paceline.types.ids import fresh_id
from paceline.types.join import JOIN, JoinRequest, Welcome

ASK_AGAIN_S = 0.5
LOOK_S = 0.05
CLOSED_ENOUGH = 3
"""Handshakes that broke off, after which it is not a head that was just being started again."""


class NotOurs(InvalidRequest):
    """Who answers there does not belong to the token, or does not take it."""

    code = "not_ours"


def join(
    address: str,
    membership: Membership,
    request: JoinRequest,
    timeout_s: float,
    *,
    context: Context | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Welcome:
    """Asks the head at `address` (tcp://HOST:PORT) for a node's place.

    Raises NotOurs; InvalidRequest for other versions or an impossible name; Unavailable when
    nobody is there or the name is taken; Settling when a head that has just started is not ready
    in time; DeadlineExceeded when a head is there and says nothing.
    """
    name = fresh_id("joiner")
    with (
        closing(_Door()) as door,
        ControlClient[ToGateway](
            address, name, ToGateway, membership, context=context, watch=door.watch
        ) as client,
    ):
        return _ask(client, door, request, address, timeout_s, clock)


def _ask(
    client: ControlClient[ToGateway],
    door: _Door,
    request: JoinRequest,
    address: str,
    timeout_s: float,
    clock: Callable[[], float],
) -> Welcome:
    ask = Ask(number=1, verb=JOIN, body=msgspec.to_builtins(request))
    deadline, ask_at = clock() + timeout_s, clock()
    settling: PacelineError | None = None
    while clock() < deadline:
        door.look()
        if door.refused or door.closed >= CLOSED_ENOUGH:
            raise NotOurs(door.sentence(address))
        if clock() >= ask_at and client.send(ask):
            ask_at = clock() + ASK_AGAIN_S
        client.socket.poll(round(LOOK_S * 1000))
        for message in client.receive():
            if not isinstance(message, Answer) or message.number != ask.number:
                continue
            try:
                return _welcome(message)
            except Settling as error:
                # Under the same number it would be answered with the same words.
                settling, ask = error, replace(ask, number=ask.number + 1)
    raise settling or door.silence(address, timeout_s)


def _welcome(answer: Answer) -> Welcome:
    if answer.error:
        raise error_of(answer)
    try:
        return msgspec.convert(answer.body, Welcome)
    except msgspec.ValidationError as error:
        raise InvalidRequest(
            f"the head's answer cannot be read ({error}): run the same release of paceline here"
        ) from error


class _Door:
    """How the head's door behaves, as far as this side can see."""

    def __init__(self) -> None:
        self._events: Socket | None = None
        self.entered = False
        self.refused = False
        """The head proved itself and does not take our key."""
        self.closed = 0
        """Times that who is there closed before proving to be the head."""

    def watch(self, socket: Socket) -> None:
        """From before it connects: who is refused for good may be so at once, and only once."""
        events = (
            zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        self._events = socket.get_monitor_socket(events, f"inproc://{fresh_id('door')}")

    def look(self) -> None:
        while self._events is not None and self._events.poll(0):
            event = recv_monitor_message(self._events)["event"]
            self.entered |= event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self.refused |= event == zmq.EVENT_HANDSHAKE_FAILED_AUTH
            self.closed += event in _BROKEN_OFF

    def sentence(self, address: str) -> str:
        if self.refused:
            return (
                f"the head at {address} does not take this token: its keys were made anew since; "
                "copy the token that `paceline token` shows there"
            )
        return (
            f"who answers at {address} is not the head that this token names, and was told "
            "nothing: look at the address, or copy the token from the head again"
        )

    def silence(self, address: str, waited_s: float) -> PacelineError:
        if self.entered:
            return DeadlineExceeded(
                f"the head at {address} did not answer within {waited_s:g} s; try again"
            )
        return Unavailable(
            f"nobody answered at {address} for {waited_s:g} s: is `paceline up` running there, "
            "and does a firewall let this port through?"
        )

    def close(self) -> None:
        if self._events is not None:
            self._events.close(linger=0)


_BROKEN_OFF = {zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL}
