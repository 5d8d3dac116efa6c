"""A stream: one choice of one request, from its record to its last token.

The record is all that is needed to continue a generation anywhere: (stream_id, attempt) names a
try, `position` counts emitted tokens from 0, and sampling is a pure function of the record and
the position.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from paceline.types.ids import StreamId

MAX_LOGPROBS = 20
MAX_SEED = 2**63 - 1


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the next token is drawn. The defaults draw from the model's own distribution."""

    max_tokens: int
    seed: int
    """0 … MAX_SEED; the gateway draws one where the client gave none."""
    choice: int = 0
    """Which of a request's n choices this is: keys the generator together with the seed."""
    temperature: float = 1.0
    """0 is greedy; ties go to the lowest id."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Over prompt and emitted ids; the two below over emitted ids only."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    logprobs: int | None = None
    """None: no logprobs; k: the sampled token's, and the k most likely ones'."""
    min_tokens: int = 0
    """No end-of-sequence token is drawn before this many emitted tokens."""
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()


class StreamRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway keeps of a stream, and hands to a driver to start or to continue it."""

    stream_id: StreamId
    attempt: int
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    emitted_ids: tuple[int, ...] = ()


class Token(msgspec.Struct, frozen=True, array_like=True):
    """One emitted token. `logprob` and `top` (id, logprob) are there when asked for."""

    stream_id: StreamId
    attempt: int
    position: int
    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """The end of (stream_id, attempt): `emitted` tokens in all were emitted, earlier attempts'
    included. `message` says why where the reason is `error`."""

    stream_id: StreamId
    attempt: int
    emitted: int
    reason: FinishReason
    message: str = ""


# --- gateway <-> driver -------------------------------------------------------------------------


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """Admitted once by (stream_id, attempt); a higher attempt cancels a lower."""

    record: StreamRecord


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Frees the stream if its attempt is not newer than this one. Nothing is answered."""

    stream_id: StreamId
    attempt: int


class Renew(msgspec.Struct, frozen=True, tag="renew"):
    """The gateway still wants these; streams that nobody renews for 30 s are freed."""

    streams: tuple[tuple[StreamId, int], ...]


class Tokens(msgspec.Struct, frozen=True, tag="tokens"):
    """What one step gave to the streams of one gateway, in order."""

    tokens: tuple[Token, ...]
    finished: tuple[Finished, ...] = ()


class Rejected(msgspec.Struct, frozen=True, tag="rejected"):
    """The driver does not take the stream; `retry` tells whether another time or driver may."""

    stream_id: StreamId
    attempt: int
    code: str
    message: str
    retry: bool
    retry_after_s: int | None = None
    """Where its queue is full: when places are expected there."""


class Waiting(msgspec.Struct, frozen=True, tag="waiting"):
    """These can gain nothing yet: others come before them, and the line moves. Said again and again
    while that is so."""

    streams: tuple[tuple[StreamId, int], ...]


class Closing(msgspec.Struct, frozen=True, tag="closing"):
    """The driver leaves its line (its epoch ended, or it stops): resubmit what it held."""

    reason: str


ToDriver = Submit | Cancel | Renew
FromDriver = Tokens | Rejected | Waiting | Closing
