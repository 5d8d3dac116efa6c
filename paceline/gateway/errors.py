"""Errors as clients see them: OpenAI's shape, and a status by the error's code."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from paceline.process.logs import get_logger
from paceline.types.errors import InvalidRequest, NotFound, PacelineError, Unavailable

log = get_logger(__name__)


class InvalidField(InvalidRequest):
    """One field of the body cannot be as it is; `param` names it."""

    def __init__(self, param: str | None, message: str) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class ModelNotFound(NotFound):
    code = "model_not_found"


class NoChatTemplate(InvalidRequest):
    code = "chat_template_missing"


class InvalidApiKey(PacelineError):
    code = "invalid_api_key"


class BodyTooLarge(PacelineError):
    code = "body_too_large"


class BodyTimeout(PacelineError):
    code = "body_timeout"


class Overloaded(Unavailable):
    """A bound of this gateway is reached. (QueueFull: one of the model's instances.)"""

    code = "overloaded"


class SlowClient(PacelineError):
    """The client does not take what it asked for."""

    code = "slow_client"


class ClientGone(PacelineError):
    """The client has closed its connection; nobody reads this error."""

    code = "client_gone"


class ForeignHost(PacelineError):
    """The request calls this machine by a name that is not its own."""

    code = "foreign_host"


class StreamFailed(PacelineError):
    """A driver gave up on the stream for a reason that lies in the stream."""

    code = "stream_failed"


class Internal(PacelineError):
    """A fault of ours; the log has the details."""

    code = "internal_error"


class Shape(NamedTuple):
    status: int
    type: str
    retry_after_s: int | None = None


_INVALID = "invalid_request_error"

SHAPES: dict[str, Shape] = {
    "invalid_request": Shape(400, _INVALID),
    "context_length_exceeded": Shape(400, _INVALID),
    "chat_template_missing": Shape(400, _INVALID),
    "invalid_api_key": Shape(401, _INVALID),
    "foreign_host": Shape(403, _INVALID),
    "not_found": Shape(404, _INVALID),
    "model_not_found": Shape(404, _INVALID),
    "method_not_allowed": Shape(405, _INVALID),
    "body_timeout": Shape(408, _INVALID),
    "slow_client": Shape(408, _INVALID),
    "body_too_large": Shape(413, _INVALID),
    "request_ends_its_line": Shape(422, _INVALID),
    "client_gone": Shape(499, _INVALID),
    "queue_full": Shape(429, "rate_limit_error", retry_after_s=5),
    "unavailable": Shape(503, "service_unavailable_error", retry_after_s=5),
    "nobody_gives": Shape(503, "service_unavailable_error", retry_after_s=5),
    "settling": Shape(503, "service_unavailable_error", retry_after_s=1),
    "overloaded": Shape(503, "service_unavailable_error", retry_after_s=2),
    "deadline_exceeded": Shape(504, "timeout_error"),
}
_SERVER_ERROR = Shape(500, "server_error")


def shape_of(error: PacelineError) -> Shape:
    return SHAPES.get(error.code, _SERVER_ERROR)


def error_body(error: PacelineError) -> dict[str, Any]:
    """`{"error": {message, type, param, code}}`, as OpenAI's clients read it."""
    return {
        "error": {
            "message": str(error),
            "type": shape_of(error).type,
            "param": getattr(error, "param", None),
            "code": error.code,
        }
    }


def error_json(error: PacelineError) -> bytes:
    return msgspec.json.encode(error_body(error))


def error_headers(error: PacelineError) -> dict[str, str]:
    """`retry-after`: what the error itself knows, else what goes for its kind."""
    retry_after_s = getattr(error, "retry_after_s", None) or shape_of(error).retry_after_s
    return {} if retry_after_s is None else {"retry-after": str(retry_after_s)}


class RemoteError(PacelineError):
    """An error that another process reported by its code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def as_known(error: Exception) -> PacelineError:
    """The error itself, or, logged with its traceback, a word that we are at fault."""
    if isinstance(error, PacelineError):
        return error
    log.error("a request failed by a fault of the gateway", exc_info=error)
    return Internal("the gateway failed to handle this request; its log says how")
