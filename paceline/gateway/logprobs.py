"""Logprobs in the two shapes that OpenAI gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paceline.checkpoint.tokenizer import Tokenizer
from paceline.gateway.streams import TokenEntry

LEAST = -9999.0
"""Stands for minus infinity, which JSON cannot say."""


def chat_logprobs(entries: Sequence[TokenEntry], tokenizer: Tokenizer) -> dict[str, Any]:
    def shown(id_: int, logprob: float | None) -> dict[str, Any]:
        return {
            "token": tokenizer.token_text(id_),
            "logprob": _finite(logprob),
            "bytes": list(tokenizer.token_bytes(id_)),
        }

    return {
        "content": [
            {
                **shown(entry.token.id, entry.token.logprob),
                "top_logprobs": [shown(id_, logprob) for id_, logprob in entry.token.top],
            }
            for entry in entries
        ],
        "refusal": None,
    }


def completion_logprobs(entries: Sequence[TokenEntry], tokenizer: Tokenizer) -> dict[str, Any]:
    """Four lists, one entry per token; the sampled token is among its own likeliest ones."""
    tokens = [entry.token for entry in entries]
    return {
        "tokens": [tokenizer.token_text(token.id) for token in tokens],
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [
            {
                tokenizer.token_text(id_): _finite(logprob)
                for id_, logprob in (*token.top, (token.id, token.logprob))
            }
            for token in tokens
        ],
        "text_offset": [entry.offset for entry in entries],
    }


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST)
