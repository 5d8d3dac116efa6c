"""The bodies of OpenAI's requests, and what of them cannot be done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import msgspec

from paceline.gateway.errors import InvalidField


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What both kinds of request share. A field that is null counts as not given."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    # Not OpenAI's; named as vLLM names them.
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    return_token_ids: bool | None = None
    timeout: float | None = None
    """Seconds until the whole answer must be there."""


class Part(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    role: str
    content: str | list[Part] | None = None
    name: str | None = None


class ChatRequest(Request, frozen=True, kw_only=True):
    default_max_tokens: ClassVar[int] = 4096
    """Where no limit is given: this, or what is left of the context if that is less."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def wanted_tokens(self) -> int | None:
        given = self.max_completion_tokens
        return self.max_tokens if given is None else given

    def wanted_logprobs(self) -> int | None:
        """How many likeliest tokens to name beside each one drawn; None for no logprobs."""
        if self.logprobs:
            return self.top_logprobs or 0
        if self.top_logprobs:
            raise InvalidField("top_logprobs", "top_logprobs needs logprobs to be true")
        return None


class CompletionRequest(Request, frozen=True, kw_only=True):
    default_max_tokens: ClassVar[int] = 16
    """OpenAI's own default here."""

    prompt: str | list[str | int | list[int]]
    """One prompt or several, each a text or its token ids."""
    logprobs: int | None = None

    def wanted_tokens(self) -> int | None:
        return self.max_tokens

    def wanted_logprobs(self) -> int | None:
        return self.logprobs


AnyRequest = ChatRequest | CompletionRequest

REFUSED: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "use_beam_search": (False,),
    "prompt_logprobs": (0,),
    "continue_final_message": (False,),
    "chat_template": (),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": ([],),
    "guided_grammar": (),
    "grammar": (),
}
"""Fields that would change what the answer means and are not supported, each with the values
that ask for nothing. Other unknown fields are ignored."""

T = TypeVar("T")
R = TypeVar("R", bound=Request)


def decode(body: bytes, kind: type[R]) -> R:
    """Raises InvalidField: malformed JSON, a missing or mistyped field, one that is refused."""
    raw = json_object(body)
    _refuse(raw)
    return converted(raw, kind)


def json_object(body: bytes) -> dict[str, Any]:
    """Raises InvalidField for what is no JSON object."""
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidField(None, f"the body is not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise InvalidField(None, "the body must be a JSON object")
    return raw


def converted(raw: dict[str, Any], kind: type[T]) -> T:
    """Raises InvalidField, which names the field that is missing or of a wrong type."""
    try:
        return msgspec.convert(raw, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidField(_param(error), str(error)) from error


def _refuse(raw: dict[str, Any]) -> None:
    for field, harmless in REFUSED.items():
        value = raw.get(field)
        if value is not None and value not in harmless:
            raise InvalidField(
                field, f"`{field}` is not supported by this server; leave it out of the request"
            )


def _param(error: msgspec.ValidationError) -> str | None:
    """The field that msgspec's message names, as in "Expected `int` - at `$.n`"."""
    _, found, path = str(error).rpartition("$.")
    if found:
        return path.rstrip("`")
    _, found, field = str(error).partition("required field `")
    return field.rstrip("`") if found else None
