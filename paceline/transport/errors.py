"""How a link or a frame can fail. Each message says what was found."""

from __future__ import annotations

import msgspec

from paceline.types.errors import TransportError, Unavailable

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are no message; the last for one nested too deeply."""


class FrameDamaged(TransportError):
    """The bytes are no frame: cut, changed on the way, or from another program."""

    code = "frame_damaged"


class ChecksumMismatch(FrameDamaged):
    """The frame is not what was sent."""

    code = "checksum_mismatch"


class ProtocolMismatch(FrameDamaged):
    """The peer speaks another version of the data protocol: both need the same release."""

    code = "protocol_mismatch"


class AddressUnusable(TransportError):
    """A socket cannot be bound there."""

    code = "address_unusable"


class LinkFull(TransportError):
    """The neighbour does not take frames fast enough; nothing was sent, nothing is lost."""

    code = "link_full"


class LinkBroken(TransportError):
    """This link is of no more use: only a new epoch makes a new one."""

    code = "link_broken"


class NobodyGives(Unavailable):
    """No node that can be reached has what is wanted of a checkpoint."""

    code = "nobody_gives"
