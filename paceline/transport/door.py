"""A rank's open door in one epoch: a fresh socket that only its upstream neighbour can use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import zmq

from paceline.transport.authenticator import Authenticator, fresh_domain
from paceline.transport.keys import KeyPair
from paceline.transport.link import LINK_MESSAGES, MAX_FRAME_BYTES, Link
from paceline.transport.sockets import Context, Socket, bind_fresh, bound, guard, made, retire
from paceline.types.ids import Epoch


class Door:
    """Bound, and closed to everyone until `admit`. The socket belongs to the accepted link too."""

    def __init__(
        self,
        epoch: Epoch,
        rank: int,
        socket: Socket,
        address: str,
        authenticator: Authenticator,
        domain: str,
    ) -> None:
        self.epoch = epoch
        self.rank = rank
        self.address = address
        self._socket = socket
        self.authenticator = authenticator
        self._domain = domain

    @classmethod
    def open(
        cls,
        epoch: Epoch,
        rank: int,
        *,
        directory: Path | None = None,
        host: str | None = None,
        keys: KeyPair,
        messages: int = LINK_MESSAGES,
        context: Context | None = None,
    ) -> Door:
        """Give `directory` where the upstream neighbour is on this machine, else `host`.

        Raises AddressUnusable.
        """
        context = context or zmq.Context.instance()
        domain = fresh_domain(f"door-{epoch}-{rank}")
        authenticator = Authenticator.of(context)
        with made(context, zmq.DEALER) as socket:
            bound(socket, messages=messages, message_bytes=MAX_FRAME_BYTES)
            guard(socket, keys, domain)
            address = bind_fresh(socket, "door", directory=directory, host=host)
        authenticator.admit(domain, ())
        return cls(epoch, rank, socket, address, authenticator, domain)

    def admit(self, public_keys: Iterable[str]) -> None:
        """Replaces the set of keys (Z85) that may connect."""
        self.authenticator.admit(self._domain, public_keys)

    def accept(self, peer_rank: int) -> Link:
        """The link to the neighbour that this door admits."""
        return Link(self._socket, self.epoch, self.rank, peer_rank)

    def close(self) -> None:
        """Closes the accepted link's socket too. Safe to repeat."""
        self.authenticator.forget(self._domain)
        retire(self._socket, self.address)

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
