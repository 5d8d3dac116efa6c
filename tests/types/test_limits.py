from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from paceline.types.errors import InvalidRequest
from paceline.types.limits import (
    MAX_LOGIT_BIAS,
    MAX_STOP_TOKEN_IDS,
    RANGES,
    validate_params,
    validate_record,
)
from paceline.types.stream import MAX_LOGPROBS, MAX_SEED, SamplingParams, StreamRecord

VOCAB = 2000


def params(**changes: Any) -> SamplingParams:
    return SamplingParams(**({"max_tokens": 2**31 - 1, "seed": 0} | changes))


def test_every_number_of_the_parameters_has_a_range() -> None:
    fields = {field.name for field in msgspec.structs.fields(SamplingParams)}
    assert fields - RANGES.keys() == {"logit_bias", "ignore_eos", "stop_token_ids"}


def test_the_defaults_are_allowed() -> None:
    validate_params(params(), VOCAB)


@pytest.mark.parametrize("field", RANGES)
def test_both_ends_are_allowed_and_nothing_beyond(field: str) -> None:
    allowed = RANGES[field]
    for value in (allowed.low, allowed.high):
        validate_params(params(**{field: value}), VOCAB)
    step = 1 if allowed.whole else 1e-3
    for value in (allowed.low - step, allowed.high + step):
        with pytest.raises(InvalidRequest, match=f"^{field} must be .* from {allowed.low} to"):
            validate_params(params(**{field: value}), VOCAB)


@pytest.mark.parametrize("field", RANGES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1"])
def test_what_is_no_finite_number_is_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field} must be"):
        validate_params(params(**{field: value}), VOCAB)


@pytest.mark.parametrize("field", [name for name, allowed in RANGES.items() if allowed.whole])
def test_a_fraction_is_refused_where_a_whole_number_is_wanted(field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field} must be a whole number"):
        validate_params(params(**{field: 1.5}), VOCAB)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperature": None}, "temperature must be"),
        ({"max_tokens": 3, "min_tokens": 4}, r"min_tokens must be at most max_tokens \(3\), not 4"),
        ({"logit_bias": {1: 100.5}}, r"logit_bias\[1\] must be .* from -100 to 100, not 100.5"),
        ({"logit_bias": {1: math.nan}}, r"logit_bias\[1\] must be"),
        ({"logit_bias": {VOCAB: 1.0}}, "logit_bias: a token id must be .* from 0 to 1999"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias: a token id"),
        ({"logit_bias": dict.fromkeys(range(MAX_LOGIT_BIAS + 1), 1.0)}, "at most 1024 entries"),
        ({"stop_token_ids": (0, VOCAB)}, "stop_token_ids: a token id"),
        ({"stop_token_ids": (True,)}, "stop_token_ids: a token id"),
        ({"stop_token_ids": tuple(range(MAX_STOP_TOKEN_IDS + 1))}, "at most 64 entries, not 65"),
        ({"logprobs": MAX_LOGPROBS + 1}, "logprobs must be a whole number from 0 to 20"),
        ({"seed": MAX_SEED + 1}, "seed must be"),
    ],
)
def test_refusals_name_the_field_and_what_is_allowed(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        validate_params(params(**changes), VOCAB)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt_ids": ()}, "at least one token"),
        ({"prompt_ids": (1, VOCAB)}, "prompt_ids: a token id must be .* not 2000"),
        ({"emitted_ids": (-1,)}, "emitted_ids: a token id"),
        ({"params": params(top_p=1.5)}, "top_p must be"),
    ],
)
def test_a_record_is_checked_whole(changes: dict[str, Any], words: str) -> None:
    good = StreamRecord(stream_id="s", attempt=0, prompt_ids=(1, 2), params=params())
    validate_record(good, VOCAB)
    with pytest.raises(InvalidRequest, match=words):
        validate_record(msgspec.structs.replace(good, **changes), VOCAB)
