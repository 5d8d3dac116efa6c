"""From the words of a request to the token ids of its prompts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from paceline.checkpoint.chat import no_chat_template
from paceline.gateway.errors import ContextLengthExceeded, InvalidField, NoChatTemplate
from paceline.gateway.library import ModelText
from paceline.gateway.requests import AnyRequest, ChatRequest, CompletionRequest, Message
from paceline.types.errors import InvalidRequest
from paceline.types.limits import MAX_CHOICES, validate_ids

MOST_CHARS_PER_TOKEN = 128
"""On the average of a whole prompt; the longest tokens of today's vocabularies are no longer."""

T = TypeVar("T")
Ids = tuple[int, ...]

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Roles of OpenAI's and what templates call them."""


async def prompts_of(request: AnyRequest, text: ModelText, inline_chars: int) -> tuple[Ids, ...]:
    """The prompts, in order, none of them empty.

    Texts of more than `inline_chars` are worked on in a thread: the other streams go on.
    Raises InvalidRequest.
    """
    if isinstance(request, ChatRequest):
        prompts = await _chat(request, text, inline_chars)
    else:
        prompts = await _plain(request, text, inline_chars)
    if not all(prompts):
        raise InvalidField("prompt", "the prompt is empty; this model needs at least one token")
    return prompts


async def _chat(request: ChatRequest, text: ModelText, inline_chars: int) -> tuple[Ids, ...]:
    template = text.template
    if template is None:
        raise NoChatTemplate(str(no_chat_template(text.name)))
    if not request.messages:
        raise InvalidField("messages", "messages must hold at least one message")
    messages = [_plain_message(i, message) for i, message in enumerate(request.messages)]
    variables = request.chat_template_kwargs or {}

    def encode() -> Ids:
        rendered = template.render(messages, variables=variables)
        return tuple(text.tokenizer.encode(rendered, add_special_tokens=False))

    chars = sum(len(message["content"]) for message in messages)
    _check_length(chars, text)
    return (await _in_thread_if(chars > inline_chars, encode),)


async def _plain(request: CompletionRequest, text: ModelText, inline_chars: int) -> tuple[Ids, ...]:
    prompts = _separate(request.prompt)

    def encode() -> tuple[Ids, ...]:
        return tuple(_ids(prompt, text) for prompt in prompts)

    for prompt in prompts:
        _check_length(len(prompt), text)
    chars = sum(len(prompt) for prompt in prompts)
    return await _in_thread_if(chars > inline_chars, encode)


def _check_length(chars: int, text: ModelText) -> None:
    """What cannot fit is not read first: a long text costs seconds."""
    if chars > MOST_CHARS_PER_TOKEN * text.max_context:
        raise ContextLengthExceeded(
            f"a prompt of {chars} characters cannot fit into the {text.max_context} tokens of "
            f"{text.name}; shorten it"
        )


async def _in_thread_if(long: bool, work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work) if long else work()


def _plain_message(index: int, message: Message) -> dict[str, str]:
    """A message as templates expect it: role and one text."""
    param = f"messages[{index}]"
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidField(
            param, f"role {message.role!r} is not supported; use one of {', '.join(_ROLES)}"
        )
    content = message.content or ""
    if not isinstance(content, str):
        for part in content:
            if part.type != "text" or part.text is None:
                raise InvalidField(
                    param, f"content of type {part.type!r} is not supported; send text only"
                )
        content = "\n".join(part.text or "" for part in content)
    return {"role": role, "content": content}


def _separate(prompt: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """One entry per prompt, of the four forms that OpenAI's API takes."""
    if isinstance(prompt, str):
        return [prompt]
    ids = [entry for entry in prompt if isinstance(entry, int)]
    if ids and len(ids) == len(prompt):
        return [ids]
    several = [entry for entry in prompt if not isinstance(entry, int)]
    if ids or not several:
        raise InvalidField("prompt", "prompt must be a text, token ids, or a list of one of them")
    if len(several) > MAX_CHOICES:
        raise InvalidField("prompt", f"at most {MAX_CHOICES} prompts, not {len(several)}")
    return several


def _ids(prompt: str | list[int], text: ModelText) -> Ids:
    if isinstance(prompt, str):
        return tuple(text.tokenizer.encode(prompt))
    try:
        validate_ids("prompt", prompt, text.vocab_size)
    except InvalidRequest as error:
        raise InvalidField("prompt", str(error)) from error
    return tuple(prompt)
