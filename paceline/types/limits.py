"""What a client may ask for: the ranges of sampling parameters, as a table.

The gateway checks a request with it, the driver checks every record again: what passes here can
neither fail nor hang the line.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import msgspec

from paceline.types.errors import InvalidRequest
from paceline.types.stream import MAX_LOGPROBS, MAX_SEED, SamplingParams, StreamRecord

MAX_CHOICES = 128
MAX_LOGIT_BIAS = 1024
MAX_STOP_TOKEN_IDS = 64
_MAX_COUNT = 2**31 - 1


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """A closed range of finite numbers; `whole` ones are integers."""

    low: float
    high: float
    whole: bool = False

    def holds(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.whole and not isinstance(value, int):
            return False
        return math.isfinite(value) and self.low <= value <= self.high

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a finite number"
        return f"{kind} from {self.low} to {self.high}"


RANGES: dict[str, Range] = {
    "max_tokens": Range(low=1, high=_MAX_COUNT, whole=True),
    "seed": Range(low=0, high=MAX_SEED, whole=True),
    "choice": Range(low=0, high=MAX_CHOICES - 1, whole=True),
    "temperature": Range(low=0, high=2),
    "top_p": Range(low=0, high=1),
    "top_k": Range(low=0, high=_MAX_COUNT, whole=True),
    "min_p": Range(low=0, high=1),
    "repetition_penalty": Range(low=0.01, high=100),
    "presence_penalty": Range(low=-2, high=2),
    "frequency_penalty": Range(low=-2, high=2),
    "logprobs": Range(low=0, high=MAX_LOGPROBS, whole=True),
    "min_tokens": Range(low=0, high=_MAX_COUNT, whole=True),
}
"""Every number in SamplingParams. `logprobs` may also be None."""

LOGIT_BIAS = Range(low=-100, high=100)


def validate_params(params: SamplingParams, vocab_size: int) -> None:
    """Raises InvalidRequest, which names the field and what is allowed there."""
    for field, allowed in RANGES.items():
        value = getattr(params, field)
        if value is not None or field != "logprobs":
            _require(allowed, field, value)
    if params.min_tokens > params.max_tokens:
        raise InvalidRequest(
            f"min_tokens must be at most max_tokens ({params.max_tokens}), not {params.min_tokens}"
        )
    _bounded("logit_bias", params.logit_bias, MAX_LOGIT_BIAS)
    _bounded("stop_token_ids", params.stop_token_ids, MAX_STOP_TOKEN_IDS)
    validate_ids("logit_bias", params.logit_bias, vocab_size)
    validate_ids("stop_token_ids", params.stop_token_ids, vocab_size)
    for token_id, bias in params.logit_bias.items():
        _require(LOGIT_BIAS, f"logit_bias[{token_id}]", bias)


def validate_ids(field: str, ids: Collection[int], vocab_size: int) -> None:
    """Raises InvalidRequest unless all are token ids of a vocabulary of this size."""
    allowed = Range(low=0, high=vocab_size - 1, whole=True)
    for token_id in ids:
        if not (type(token_id) is int and 0 <= token_id < vocab_size):
            raise InvalidRequest(f"{field}: a token id must be {allowed}, not {token_id!r}")


def validate_record(record: StreamRecord, vocab_size: int) -> None:
    """Raises InvalidRequest unless the record can be continued on a model of this vocabulary."""
    if not record.prompt_ids:
        raise InvalidRequest("prompt_ids must hold at least one token")
    validate_params(record.params, vocab_size)
    validate_ids("prompt_ids", record.prompt_ids, vocab_size)
    validate_ids("emitted_ids", record.emitted_ids, vocab_size)


def _require(allowed: Range, field: str, value: object) -> None:
    if not allowed.holds(value):
        raise InvalidRequest(f"{field} must be {allowed}, not {value!r}")


def _bounded(field: str, entries: Collection[object], most: int) -> None:
    if len(entries) > most:
        raise InvalidRequest(f"{field} may have at most {most} entries, not {len(entries)}")
