"""When a stream leaves its driver and where it goes. Pure decisions over plain facts.

A client never learns that a driver was lost: its stream pauses until it is carried again, at most
to the request's deadline.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

import msgspec

from paceline.types.control import Route
from paceline.types.ids import Epoch, InstanceId


class Leave(Enum):
    """Why a stream is taken from its driver and submitted again."""

    CLOSING = "closing"
    """The driver said that it leaves its line."""
    LINK = "link"
    """The link broke or fell silent."""
    EPOCH = "epoch"
    """The instance has a newer line."""
    GAP = "gap"
    """A token was lost on the way."""
    STALLED = "stalled"
    """No progress by its deadline."""
    REJECTED = "rejected"
    """The driver did not take it, but another time or driver may."""
    CANCELLED = "cancelled"
    """The driver freed it unasked."""
    TRIAL = "trial"
    """A suspect gets the line to itself."""

    @property
    def blames_the_instance(self) -> bool:
        """Whether another instance, where there is one, should be tried first."""
        return self in (Leave.LINK, Leave.STALLED, Leave.REJECTED)

    @property
    def ends_the_line(self) -> bool:
        return self in (Leave.CLOSING, Leave.LINK, Leave.EPOCH)


class Carriage(msgspec.Struct, frozen=True, kw_only=True):
    """A stream with a driver, as the gateway sees the two."""

    closing: bool
    broken: bool
    silence_s: float
    epoch: Epoch
    newest_epoch: Epoch | None
    """Of the same instance; None while it has no route: its running streams may well go on."""
    disallowed: bool
    """Another has the line to itself."""
    idle_s: float
    """Since the stream was submitted, gained a token, or was said to wait for others."""
    patience_s: float


def reason_to_leave(carriage: Carriage, max_silence_s: float) -> Leave | None:
    newer = carriage.newest_epoch is not None and carriage.newest_epoch > carriage.epoch
    table = (
        (carriage.closing, Leave.CLOSING),
        (newer, Leave.EPOCH),
        (carriage.broken or carriage.silence_s > max_silence_s, Leave.LINK),
        (carriage.disallowed, Leave.TRIAL),
        (carriage.idle_s > carriage.patience_s, Leave.STALLED),
    )
    return next((reason for holds, reason in table if holds), None)


def patience_s(*, base_s: float, per_token_s: float, to_read: int, stalls: int) -> float:
    """How long a stream may go without progress: `to_read` tokens come before its next one, and
    each time it has stalled doubles it, so that a slow line is not driven to start over for ever.
    """
    return float((base_s + per_token_s * to_read) * 2**stalls)


class Pause(msgspec.Struct, frozen=True):
    """What a client sees of a loss: its stream stands still until another driver has it."""

    silent_since: float
    """The last that was heard of the stream from the driver that was lost."""
    noticed_at: float
    """When its driver was left, or the controller said that the line has no route any more."""

    def phases(self, resubmitted_at: float, gained_at: float) -> dict[str, float]:
        """Seconds until the loss was noticed, until a line stood that took the stream, and until
        that line had read it again and drawn the next token. Together: the pause."""
        return {
            "detect": self.noticed_at - self.silent_since,
            "replace": resubmitted_at - self.noticed_at,
            "replay": gained_at - resubmitted_at,
        }


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that a stream may go to."""

    route: Route
    carried: int
    """Streams that this gateway already has there."""


def choose(candidates: Collection[Candidate], avoid: InstanceId | None) -> Route | None:
    """The least loaded; `avoid` (where the stream just failed) only if there is no other.

    A driver's own count is half a second old, ours lacks other gateways' streams: the larger
    of the two counts.
    """
    best = min(candidates, key=lambda c: (c.route.instance == avoid, *_load(c)), default=None)
    return best.route if best else None


def _load(candidate: Candidate) -> tuple[int, int, str]:
    route = candidate.route
    known = route.running + route.waiting
    return max(known, candidate.carried), candidate.carried, route.instance
