"""The controller's errors, made into exceptions again at the other end."""

from __future__ import annotations

from paceline.types import errors
from paceline.types.control import Answer
from paceline.types.errors import PacelineError

ERRORS: dict[str, type[PacelineError]] = {
    error.code: error
    for error in (
        errors.InvalidRequest,
        errors.NotFound,
        errors.Unavailable,
        errors.Settling,
        errors.DeadlineExceeded,
        errors.CheckpointError,
        errors.EngineError,
        errors.TransportError,
    )
}


def error_of(answer: Answer) -> PacelineError:
    """What the answer says went wrong; of the class that has its code, where there is one."""
    body = answer.body if isinstance(answer.body, dict) else {}
    message = str(body.get("message", f"the controller answered {answer.error}"))
    return ERRORS.get(answer.error, PacelineError)(message)
