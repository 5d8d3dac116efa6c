"""Every error that a person may read. The message says what happened and what to do next."""

from __future__ import annotations


class PacelineError(Exception):
    """Base of all errors that Paceline raises on purpose.

    `code` is the machine-readable name used in logs, task reports and HTTP bodies.
    """

    code = "error"


class InvalidRequest(PacelineError):
    """The caller asked for something that can never work as asked (HTTP 400)."""

    code = "invalid_request"


class NotFound(PacelineError):
    """The thing named does not exist here (HTTP 404)."""

    code = "not_found"


class Unavailable(PacelineError):
    """Nothing can serve this now; trying again later may work (HTTP 503)."""

    code = "unavailable"


class QueueFull(Unavailable):
    """As many streams wait as may (HTTP 429)."""

    code = "queue_full"

    def __init__(self, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Settling(Unavailable):
    """The controller has just started and does not know yet who lives (HTTP 503)."""

    code = "settling"


class DeadlineExceeded(PacelineError):
    """The other side did not answer in time (HTTP 504)."""

    code = "deadline_exceeded"


class CheckpointError(PacelineError):
    """A checkpoint, or a file to make one from, is missing, broken or unsupported.

    The message names the file and the reason.
    """

    code = "checkpoint"


class CheckpointDamaged(CheckpointError):
    """The bytes on the disk are not what they were: to be had anew, not to be read again."""


class EngineError(PacelineError):
    """A stage could not be loaded or could not compute a step."""

    code = "engine"


class TransportError(PacelineError):
    """A link broke, a frame was damaged, or a peer is not who it should be."""

    code = "transport"
