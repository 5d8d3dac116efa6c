"""From a request's fields to sampling parameters, with OpenAI's defaults."""

from __future__ import annotations

import secrets

from paceline.gateway.errors import ContextLengthExceeded, InvalidField
from paceline.gateway.requests import AnyRequest
from paceline.types.limits import MAX_CHOICES, validate_params
from paceline.types.stream import MAX_SEED, SamplingParams

MAX_STOPS = 16
MAX_STOP_CHARS = 1024
MAX_TIMEOUT_S = 86_400.0
_ALL_TOKENS = -1
"""How other servers write a top_k that keeps all."""
_SAME_NAME = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "min_tokens",
    "ignore_eos",
)
"""Fields that go through as they are where they are given."""


def sampling_params(
    request: AnyRequest, *, prompt_tokens: int, context_tokens: int, vocab_size: int
) -> SamplingParams:
    """Parameters of choice 0; other choices differ in `choice` alone.

    Raises InvalidRequest, or ContextLengthExceeded when prompt and answer do not fit.
    """
    given = {name: getattr(request, name) for name in _SAME_NAME}
    params = SamplingParams(
        max_tokens=_max_tokens(request, prompt_tokens, context_tokens),
        seed=secrets.randbelow(MAX_SEED) if request.seed is None else request.seed,
        top_k=0 if request.top_k in (None, _ALL_TOKENS) else request.top_k,
        logit_bias=_logit_bias(request),
        logprobs=request.wanted_logprobs(),
        stop_token_ids=tuple(request.stop_token_ids or ()),
        **{name: value for name, value in given.items() if value is not None},
    )
    validate_params(params, vocab_size)
    return params


def stop_strings(request: AnyRequest) -> tuple[str, ...]:
    """Raises InvalidField: too many, too long, or one that is empty."""
    stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    if len(stops) > MAX_STOPS:
        raise InvalidField("stop", f"stop may have at most {MAX_STOPS} strings, not {len(stops)}")
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_CHARS:
            raise InvalidField(
                "stop", f"a stop string must have 1 to {MAX_STOP_CHARS} characters, not {len(stop)}"
            )
    return stops


def choices(request: AnyRequest) -> int:
    """Answers per prompt. Raises InvalidField."""
    n = 1 if request.n is None else request.n
    if not 1 <= n <= MAX_CHOICES:
        raise InvalidField("n", f"n must be a whole number from 1 to {MAX_CHOICES}, not {n}")
    return n


def timeout_s(request: AnyRequest, default_s: float) -> float:
    """Raises InvalidField."""
    timeout = default_s if request.timeout is None else request.timeout
    if not 0 < timeout <= MAX_TIMEOUT_S:
        raise InvalidField(
            "timeout", f"timeout must be above 0 and at most {MAX_TIMEOUT_S:.0f} s, not {timeout}"
        )
    return timeout


def _max_tokens(request: AnyRequest, prompt_tokens: int, context_tokens: int) -> int:
    room = context_tokens - prompt_tokens
    if room < 1:
        raise ContextLengthExceeded(
            f"this model's context has {context_tokens} tokens here, and the prompt alone has "
            f"{prompt_tokens}; shorten the prompt to at most {context_tokens - 1}"
        )
    wanted = request.wanted_tokens()
    if wanted is None:
        return min(room, request.default_max_tokens)
    if wanted > room:
        raise ContextLengthExceeded(
            f"this model's context has {context_tokens} tokens here, but {prompt_tokens + wanted} "
            f"were asked for ({prompt_tokens} in the prompt, {wanted} for the answer); shorten "
            f"the prompt or set max_tokens to at most {room}"
        )
    return wanted


def _logit_bias(request: AnyRequest) -> dict[int, float]:
    try:
        return {int(key): bias for key, bias in (request.logit_bias or {}).items()}
    except ValueError:
        raise InvalidField("logit_bias", "the keys of logit_bias must be token ids") from None
